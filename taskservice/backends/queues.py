"""Queues as they are on the broker: how much waits in each, and for how long.

On Redis one script looks at all of them in one round trip: kombu (transport/redis.py) keeps each priority
of a queue in a list of its own, takes messages from the right, and writes their properties last.
Elsewhere a passive declaration tells the number of messages, and nothing tells their age.
"""

from __future__ import annotations

import math
import re
from json import JSONDecoder
from typing import TYPE_CHECKING, Any, Final

from kombu.transport.redis import PRIORITY_STEPS, Channel

from taskservice.backends.probing import connect_redis, first_broker_url
from taskservice.health import QueueHealth

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from celery import Celery

__all__ = ["queue_names", "read_queues"]

SCRIPT: Final = """
local found = {}
for index, key in ipairs(KEYS) do
    local last = redis.call('LINDEX', key, -1)
    found[index] = {redis.call('LLEN', key), last and string.sub(last, -tonumber(ARGV[1])) or ''}
end
return found
"""
TAIL: Final = 4096
"""How much of a message is looked at, from its end: a body may have megabytes."""
_PROPERTIES: Final = re.compile(rb'"properties":\s*(?=\{)')


def queue_names(app: Celery, *more: Iterable[str]) -> list[str]:
    """Return the queues that ``app`` consumes or routes to, and ``more``."""
    routes = app.conf.task_routes
    named = [route.get("queue") for route in routes.values()] if isinstance(routes, dict) else []
    names = {*app.amqp.queues, *(name for name in named if isinstance(name, str))}
    return sorted(names.union(*more))


def read_queues(
    app: Celery, names: Collection[str], *, now: float, seconds: float
) -> tuple[QueueHealth, ...]:
    """Return how these queues are at ``now``; on Redis an exchange takes ``seconds`` at most.

    Errors of the broker come through.
    """
    with app.connection_for_write() as connection:
        if connection.transport_cls not in {"redis", "rediss"}:
            connection.connect_timeout = max(1, math.ceil(seconds))
            return tuple(_declared(connection, name) for name in names)

    options = app.conf.broker_transport_options
    prefix, endings = options.get("global_keyprefix", ""), _endings(options)
    keys = [f"{prefix}{name}{ending}" for name in names for ending in endings]
    with connect_redis(first_broker_url(app), seconds) as client:
        found: Any = client.eval(SCRIPT, len(keys), *keys, str(TAIL))
    width = len(endings)
    parts = [found[start : start + width] for start in range(0, len(found), width)]
    return tuple(_measured(name, part, now) for name, part in zip(names, parts, strict=True))


def _endings(options: Mapping[str, Any]) -> list[str]:
    # As kombu's own `_q_for_pri`, with its constants where the app has not set its own.
    separator = options.get("sep", Channel.sep)
    return [f"{separator}{step}" if step else "" for step in options.get("priority_steps", PRIORITY_STEPS)]


def _measured(name: str, lists: Sequence[tuple[int, bytes]], now: float) -> QueueHealth:
    sent = [instant for _, tail in lists if (instant := _sent(tail)) is not None]
    return QueueHealth(
        name=name,
        depth=sum(int(depth) for depth, _ in lists),
        oldest_age=max(0.0, now - min(sent)) if sent else None,
    )


def _sent(tail: bytes) -> float | None:
    """Return when the message that ends with ``tail`` was sent; ``None`` if it does not say."""
    starts = [found.end() for found in _PROPERTIES.finditer(tail)]
    if not starts:
        return None

    try:
        properties, _ = JSONDecoder().raw_decode(tail[starts[-1] :].decode())
        return float(properties["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None


def _declared(connection: Any, name: str) -> QueueHealth:
    try:
        # A queue that is not there closes its channel, so each has one of its own.
        with connection.channel() as channel:
            _, depth, _ = channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors:
        depth = 0
    return QueueHealth(name=name, depth=int(depth))
