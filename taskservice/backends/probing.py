"""Asking whether a broker answers, within a bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from taskservice.backends.base import BackendHealth
from taskservice.submission import check_time_limit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery, Task

__all__ = [
    "REDIS_TRANSPORTS",
    "connect_redis",
    "first_broker_url",
    "ping_broker",
    "ping_workers",
    "refuse_outlasting",
    "visibility_timeout",
]

REDIS_TRANSPORTS: Final = frozenset({"redis", "rediss", "sentinel"})
VISIBILITY_SECONDS: Final = 3600.0  # kombu's own default


def connect_redis(url: str, seconds: float) -> Redis:
    """Return a client that tries once and gives up after ``seconds``; no connection is made yet."""
    client: Redis = Redis.from_url(
        url,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    )
    return client


def ping_broker(app: Celery, seconds: float) -> BackendHealth:
    """Ask the app's broker whether it is there; it blocks, on Redis for ``seconds`` at most."""
    with app.connection_for_write() as connection:
        # kombu shows a masked password even where there is none.
        where = connection.as_uri().replace("://:**@", "://")
        try:
            if connection.transport_cls in {"redis", "rediss"}:
                _ping_redis(app, seconds)
            else:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=math.ceil(seconds))
        except _errors(connection) as error:
            return BackendHealth(healthy=False, detail=f"no broker at {where}: {error}")
    return BackendHealth(healthy=True, detail=f"broker at {where}")


def ping_workers(app: Celery, seconds: float) -> tuple[str, ...]:
    """Return the first worker that answers Celery's own ping, which those of others do too."""
    replies = app.control.ping(timeout=seconds, limit=1) or []
    return tuple(name for reply in replies for name in reply)


def visibility_timeout(app: Celery) -> float | None:
    """Return after how many seconds the app's broker delivers an unacknowledged message again.

    ``None`` for a broker that does so only when the worker is gone.
    """
    with app.connection_for_write() as connection:
        if connection.transport_cls not in REDIS_TRANSPORTS:
            return None

    return float(app.conf.broker_transport_options.get("visibility_timeout", VISIBILITY_SECONDS))


def refuse_outlasting(app: Celery, tasks: Iterable[Task[..., Any]]) -> None:
    """Raise `LaunchOptionError` if one of ``tasks`` may outlast the app's visibility timeout."""
    limits = {task.name: limit for task in tasks if (limit := _late_limit(app, task)) is not None}
    visible = visibility_timeout(app) if limits else None
    if visible is not None:
        for name, limit in limits.items():
            check_time_limit(name, limit, visible)


def _late_limit(app: Celery, task: Task[..., Any]) -> float | None:
    limit = task.time_limit or app.conf.task_time_limit
    return float(limit) if limit and task.acks_late else None


def _ping_redis(app: Celery, seconds: float) -> None:
    with connect_redis(first_broker_url(app), seconds) as client:
        client.ping()


def first_broker_url(app: Celery) -> str:
    """Return the URL that is tried first where several are given."""
    found = app.conf.broker_write_url or app.conf.broker_url
    url = found[0] if isinstance(found, list | tuple) else str(found)
    return str(url).split(";", maxsplit=1)[0]


def _errors(connection: Any) -> tuple[type[Exception], ...]:
    found = (*connection.connection_errors, *connection.channel_errors, OperationalError)
    return (RedisError, OSError, *found)
