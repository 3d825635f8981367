"""Celery's configuration, made of our settings. Pure; only a cron string takes Celery itself.

Why each default is as it is: "Reliable defaults" in ``docs/operating.md``.
"""

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

RESTORE_SECONDS: Final = 10.0
"""How often a worker looks for deliveries whose visibility timeout is over, at the least."""
LOST_SECONDS: Final = 2.0
"""How long the result of a pool process that died may still come out of its pipe."""
RESULT_RETRY_MS: Final = 1000
_REDIS: Final = ("redis", "rediss", "redis+socket", "sentinel", "unix")
_AMQP: Final = ("amqp", "amqps", "pyamqp")


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return what `Celery.conf.update` wants: JSON only, results that tell their attempts, nothing lost.

    `ScheduleError` for a wrong ``beat_schedule``.
    """
    return {
        "broker_url": settings.effective_broker_url,
        "result_backend": settings.effective_result_backend,
        REDIS_URL: settings.redis_url,
        KEY_PREFIX: settings.key_prefix,
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
        # Without it RabbitMQ forgets a priority. 9 is the highest that a launch can ask for.
        "task_queue_max_priority": 9 if _scheme(settings) in _AMQP else None,
        "broker_transport_options": _broker_options(settings),
        "result_backend_transport_options": _result_options(settings),
        **_reliability(settings),
    }


def _reliability(settings: Settings) -> dict[str, Any]:
    return {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "worker_prefetch_multiplier": settings.prefetch,
        "worker_lost_wait": LOST_SECONDS,
        "worker_cancel_long_running_tasks_on_connection_loss": _scheme(settings) in _AMQP,
        # The bound of a stop is our own (worker.stopping): Celery's sleeps to its end in any case.
        "worker_soft_shutdown_timeout": 0.0,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A run that was done must not end as failed because Redis was away when its result was stored.
        "result_backend_always_retry": True,
        "result_backend_max_sleep_between_retries_ms": RESULT_RETRY_MS,
    }


def _broker_options(settings: Settings) -> dict[str, Any]:
    if _scheme(settings) in _AMQP:
        # Accepted means that RabbitMQ has it, and not that it was written to a socket.
        return {"confirm_publish": True}

    options = _result_options(settings)
    if _scheme(settings) in _REDIS:
        visible = settings.visibility_timeout.total_seconds()
        options["unacked_restore_interval"] = min(RESTORE_SECONDS, visible)
        # kombu's own is 10: a look every 100 seconds.
        options["unacked_restore_throttle"] = 1
        # Who is killed while it looks holds the lock so long, and nobody else looks: five minutes in kombu.
        options["unacked_mutex_expire"] = RESTORE_SECONDS
        options["socket_keepalive"] = True
    return options


def _result_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        # The broker's option, and the result backend's too: Celery takes the shorter of the two.
        "visibility_timeout": int(settings.visibility_timeout.total_seconds()) or 1,
    }
    if settings.broker_key_prefix:
        options["global_keyprefix"] = settings.broker_key_prefix
    return options


def _scheme(settings: Settings) -> str:
    return settings.effective_broker_url.partition("://")[0]
