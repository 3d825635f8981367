"""The stage of a story as settings of the app that plays it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.base import CapabilityError
from pytest_taskservice.drivers.beat_entries import beat_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pytest_taskservice.drivers.base import Stage

__all__ = ["celery_settings", "rebind", "rebound", "stage_settings", "start_of", "with_settings"]

_BROKERS = {"redis": "redis://localhost:6379/0", "amqp": "amqp://localhost"}
_SIMULATED_POOL = "prefork"


def start_of(stage: Stage | None) -> datetime | None:
    """Return the first instant of a story; ``None`` where it is the world's to choose."""
    if stage is None or stage.config is None or not stage.config.start:
        return None
    found = datetime.fromisoformat(stage.config.start)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def celery_settings(app: Celery, stage: Stage) -> dict[str, Any]:
    """Return the settings of Celery that a story asks for; those of transports go on top of the app's own."""
    config: Any = app.conf
    settings = {} if stage.config is None else dict(stage.config.celery)
    for name, value in settings.items():
        if name.endswith("transport_options"):
            settings[name] = {**(config.get(name) or {}), **value}
    return settings


def with_settings(stage: Stage | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with those of Celery that a story asks for; of options of transports both."""
    found = dict(settings)
    asked = {} if stage is None or stage.config is None else stage.config.celery
    for name, value in asked.items():
        merged = name.endswith("transport_options")
        found[name] = {**(found.get(name) or {}), **value} if merged else value
    return found


@contextmanager
def rebound(app: Celery, settings: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[None]:
    """Meanwhile, let tasks have ``settings`` as :func:`rebind` does."""
    # Worked out once from the setting, and kept.
    zone = app.__dict__.pop("timezone", None)
    changed = rebind(app, settings, before)
    try:
        yield
    finally:
        for task, name, theirs in changed:
            setattr(task, name, theirs)
        app.__dict__.pop("timezone", None)
        if zone is not None:
            app.__dict__["timezone"] = zone


def rebind(app: Celery, settings: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[Any, str, Any]]:
    """Let tasks have ``settings`` that they copied when they were bound; ``before`` is what those were.

    Return what was changed: task, attribute and its value until now.
    """
    from celery.app.task import Task

    bound: Any = Task
    changed: list[tuple[Any, str, Any]] = []
    for name, setting in bound.from_config:
        if setting not in settings or settings[setting] == before.get(setting):
            continue
        for task in app.tasks.values():
            theirs = getattr(task, name)
            # Any other value is the task's own.
            if theirs == before.get(setting):
                changed.append((task, name, theirs))
                setattr(task, name, settings[setting])
    return changed


def stage_settings(
    app: Celery, stage: Stage, *, refuse: Callable[[CapabilityError], CapabilityError]
) -> dict[str, Any]:
    """Return all settings that a simulated app needs for a story."""
    settings = celery_settings(app, stage)
    if stage.config is not None and stage.config.broker:
        settings |= dict.fromkeys(("broker_url", "broker_read_url", "broker_write_url"), None)
        settings["broker_url"] = _BROKERS[stage.config.broker]
    pool = stage.workers.pool if stage.workers is not None else None
    if pool not in (None, _SIMULATED_POOL):
        raise refuse(
            CapabilityError("celery-sim", f"the pool {pool}", f"simulated workers have {_SIMULATED_POOL}")
        )
    return settings | beat_settings(app, stage)
