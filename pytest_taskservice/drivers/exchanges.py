"""Exchanges of an app that is meant for RabbitMQ, on Redis.

RabbitMQ knows the type of an exchange once anybody has declared it. kombu's Redis transport knows it per
connection, and takes what that connection has not declared for a direct exchange: a message for a topic
exchange then reaches no queue. Here every connection knows. An app that is meant for Redis keeps what Redis
does.

Leans on ``kombu.transport.virtual.Channel.typeof``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

__all__ = ["known_types", "teach"]


def known_types(app: Celery) -> dict[str, str]:
    """Return the types of the app's exchanges by name; empty if its own broker is a Redis."""
    if str(app.conf.broker_url or "").startswith(("redis", "rediss", "sentinel", "unix")):
        return {}
    queues: Any = app.amqp.queues
    exchanges = [queue.exchange for queue in queues.values() if queue.exchange]
    return {exchange.name: exchange.type for exchange in exchanges if exchange.type != "direct"}


def teach(types: Mapping[str, str]) -> Callable[[], None]:
    """Have every connection of this process know ``types``; the returned function undoes it."""
    from kombu.transport.virtual import Channel

    channel: Any = Channel
    original = channel.typeof
    if not types:
        return _nothing

    @wraps(original)
    def typeof(self: Any, exchange: str, default: str = "direct") -> Any:
        return original(self, exchange, types.get(exchange, default))

    channel.typeof = typeof

    def undo() -> None:
        channel.typeof = original

    return undo


def _nothing() -> None:
    """Undo nothing."""
