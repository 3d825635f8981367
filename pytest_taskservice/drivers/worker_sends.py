"""The messages of tasks that leave a process of a real world: told in its journal, doubled or held back.

A held message lies in the world's ledger, and the test process delivers it; whoever has sent it may be killed
meanwhile. One list of Redis is one queue at one priority.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import signals
from kombu.transport.redis import Channel
from kombu.utils.json import dumps

from pytest_taskservice.history import ENTRY_HEADER
from pytest_taskservice.simulator.celery.strikes import is_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_taskservice.drivers.ledger import Journal, Ledger, Strike

__all__ = ["deliver_badly", "is_meant", "sent_event", "tell_sends"]

_channel: Any = Channel


def sent_event(sender: object, message: Mapping[str, Any], *, at: float, worker: str = "") -> dict[str, Any]:
    """Return the record of a message that has left, from what ``after_task_publish`` is told."""
    headers = message.get("headers") or {}
    detail = {"queue": message.get("routing_key")}
    if headers.get(ENTRY_HEADER):
        detail["entry"] = headers[ENTRY_HEADER]
    return {
        "at": at,
        "kind": "sent",
        "run": str(headers.get("id", "")),
        "task": str(headers.get("shadow") or sender),
        "attempt": int(headers.get("retries") or 0) + 1,
        "worker": worker,
        "detail": detail,
    }


def tell_sends(journal: Journal, worker: str) -> None:
    """Have this process, and those it forks, tell what they send."""
    leaving: dict[str, float] = {}

    def before(headers: Any = None, **_: Any) -> None:
        # Told once it has gone out, but another worker may have it before we are told.
        leaving[str((headers or {}).get("id", ""))] = time.time()

    def after(sender: Any = None, **message: Any) -> None:
        run = str((message.get("headers") or {}).get("id", ""))
        journal.write(sent_event(sender, message, at=leaving.pop(run, time.time()), worker=worker))

    signals.before_task_publish.connect(before, weak=False)
    signals.after_task_publish.connect(after, weak=False)


@contextmanager
def deliver_badly(ledger: Ledger) -> Iterator[None]:
    """Meanwhile, do to messages what is armed in ``ledger``."""
    original = _channel._put  # noqa: SLF001 - the one place that all messages to a queue pass

    def put(channel: Any, queue: str, message: dict[str, Any], **options: Any) -> Any:
        copies, late = _fate(ledger, queue, message)
        for copy, by in copies:
            if by or late:
                _hold(ledger, channel, queue, copy, by + late)
            else:
                original(channel, queue, copy)
        if late:
            _hold(ledger, channel, queue, message, late)
            return None
        return original(channel, queue, message, **options)

    _channel._put = put  # noqa: SLF001 - as above
    try:
        yield
    finally:
        _channel._put = original  # noqa: SLF001 - as above


def _fate(
    ledger: Ledger, queue: str, message: dict[str, Any]
) -> tuple[list[tuple[dict[str, Any], float]], float]:
    """Return the copies of a message, each with how much later it comes, and how late all of them are."""
    headers = message.get("headers") or {}
    copies, late = [], 0.0
    for strike in ledger.armed("duplicate", "delay") if "task" in headers else ():
        if not is_meant(strike, headers, queue):
            continue
        if not ledger.claim(strike, run=headers.get("id"), queue=queue):
            continue
        if strike.kind == "duplicate":
            copies.append((_copy(message), strike.by))
        else:
            late += strike.by
    return copies, late


def is_meant(strike: Strike, headers: Mapping[str, Any], queue: str) -> bool:
    """Return whether a fault of deliveries is about a message with ``headers`` in ``queue``."""
    names = [name for name in (headers.get("shadow"), headers["task"]) if name]
    return is_named(strike.queue, queue) and any(is_named(strike.task, name) for name in names)


def _copy(message: dict[str, Any]) -> dict[str, Any]:
    # Under one tag the acknowledgement of either would be that of both.
    return {**message, "properties": {**message["properties"], "delivery_tag": str(uuid.uuid4())}}


def _hold(ledger: Ledger, channel: Any, queue: str, message: dict[str, Any], late: float) -> None:
    priority = channel._get_message_priority(message, reverse=False)  # noqa: SLF001 - as above
    key = f"{channel.global_keyprefix}{channel._q_for_pri(queue, priority)}"  # noqa: SLF001 - as above
    ledger.hold(key, dumps(message), time.time() + late)
