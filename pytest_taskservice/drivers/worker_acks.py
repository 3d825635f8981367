"""Acknowledgements that a worker of a real world gives, and that never reach its Redis.

The worker has acknowledged, and thinks no more of it. Redis has not heard of it: the message stays noted as
unacknowledged, and is somebody else's after the visibility timeout.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual
from kombu.transport.redis import Channel

from pytest_taskservice.drivers.worker_sends import is_meant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.drivers.ledger import Ledger

__all__ = ["lose_acks"]

_channel: Any = Channel


@contextmanager
def lose_acks(ledger: Ledger, worker: str) -> Iterator[None]:
    """Meanwhile, lose the acknowledgements that ``ledger`` says, of those that this process gives."""
    original = _channel.basic_ack

    def basic_ack(channel: Any, delivery_tag: str, **options: Any) -> Any:
        if _is_lost(ledger, worker, channel, delivery_tag):
            return virtual.QoS.ack(channel.qos, delivery_tag)
        return original(channel, delivery_tag, **options)

    _channel.basic_ack = basic_ack
    try:
        yield
    finally:
        _channel.basic_ack = original


def _is_lost(ledger: Ledger, worker: str, channel: Any, delivery_tag: str) -> bool:
    armed = ledger.armed("drop_ack")
    message: Any = channel.qos.get(delivery_tag) if armed else None
    headers = getattr(message, "headers", None) or {}
    if "task" not in headers:
        return False

    queue = message.delivery_info.get("routing_key") or ""
    return any(
        is_meant(strike, headers, queue)
        and ledger.claim(strike, run=headers.get("id"), queue=queue, worker=worker)
        for strike in armed
    )
