"""Celery's configuration, made of our settings. Pure; only a cron string takes Celery itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taskservice.schedules.entries import celery_schedule, parse_schedule

if TYPE_CHECKING:
    from taskservice.settings import Settings

__all__ = ["KEY_PREFIX", "REDIS_URL", "celery_config"]

REDIS_URL: Final = "taskservice_redis_url"
"""The name in Celery's configuration for where the service keeps its own data."""
KEY_PREFIX: Final = "taskservice_key_prefix"
"""The same for what its keys begin with."""


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return what `Celery.conf.update` wants: JSON only, and results that tell their attempts.

    `ScheduleError` for a wrong ``beat_schedule``.
    """
    return {
        "broker_url": settings.effective_broker_url,
        "result_backend": settings.effective_result_backend,
        REDIS_URL: settings.redis_url,
        KEY_PREFIX: settings.key_prefix,
        "broker_connection_retry_on_startup": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "timezone": settings.timezone,
        "enable_utc": True,
        "task_default_queue": settings.default_queue,
        "task_routes": {name: {"queue": queue} for name, queue in settings.routes.items()},
        "beat_schedule": celery_schedule(parse_schedule(settings.beat_schedule, zone=settings.timezone)),
        "task_track_started": True,
        "result_extended": True,
        "result_expires": settings.result_expires,
        "imports": settings.imports,
        "broker_transport_options": _transport_options(settings),
        "result_backend_transport_options": _transport_options(settings),
    }


def _transport_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        # The broker's option, and the result backend's too: Celery takes the shorter of the two.
        "visibility_timeout": int(settings.visibility_timeout.total_seconds()) or 1,
    }
    if settings.broker_key_prefix:
        options["global_keyprefix"] = settings.broker_key_prefix
    return options
