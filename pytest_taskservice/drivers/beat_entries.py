"""The beat of a story, as Celery's own ``beat_schedule``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.celery_app import find_task, sending_options
from pytest_taskservice.history import ENTRY_HEADER

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.drivers.base import Stage

__all__ = ["beat_settings"]


def beat_settings(app: Celery, stage: Stage) -> dict[str, Any]:
    """Return the settings that have Celery's beat send what ``stage`` says; each message names its entry.

    Celery has one time zone for an app, which is another's business here: each entry brings its own.
    """
    return {"beat_schedule": _schedule(app, stage)} if stage.beat else {}


def _schedule(app: Celery, stage: Stage) -> dict[str, Any]:
    from pytest_taskservice.drivers.zoned import zoned

    found = {}
    for name, entry in stage.beat.items():
        call = stage.tasks[entry.task]
        found[name] = {
            "task": find_task(app, call.task).name,
            "schedule": entry.every if entry.cron is None else zoned(entry.cron, entry.timezone),
            "args": call.args,
            "kwargs": dict(call.kwargs),
            "options": {**sending_options(call), "headers": {ENTRY_HEADER: name}},
        }
    return found
