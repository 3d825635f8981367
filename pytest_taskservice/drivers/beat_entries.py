"""The beat of a story, as Celery's own ``beat_schedule``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.base import Capability, CapabilityError
from pytest_taskservice.drivers.canvases import sending_options
from pytest_taskservice.drivers.celery_app import find_task
from pytest_taskservice.history import ENTRY_HEADER

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.drivers.base import Stage

__all__ = ["beat_settings"]


def beat_settings(app: Celery, stage: Stage, *, driver: str) -> dict[str, Any]:
    """Return the settings that have Celery's beat send what ``stage`` says; each message names its entry.

    Celery's beat has one time zone for all of its entries.
    """
    if not stage.beat:
        return {}

    zones = sorted({entry.timezone for entry in stage.beat.values() if entry.cron is not None})
    if len(zones) > 1:
        raise CapabilityError(
            driver, Capability.BEAT, f"Celery's beat has one time zone, this story has {' and '.join(zones)}"
        )
    settings: dict[str, Any] = {"beat_schedule": _schedule(app, stage)}
    return settings | ({"timezone": zones[0]} if zones else {})


def _schedule(app: Celery, stage: Stage) -> dict[str, Any]:
    from taskservice.schedules.cron import celery_crontab

    found = {}
    for name, entry in stage.beat.items():
        call = stage.tasks[entry.task]
        found[name] = {
            "task": find_task(app, call.task).name,
            "schedule": entry.every if entry.cron is None else celery_crontab(entry.cron),
            "args": call.args,
            "kwargs": dict(call.kwargs),
            "options": {**sending_options(call), "headers": {ENTRY_HEADER: name}},
        }
    return found
