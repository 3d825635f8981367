"""Requests that a worker holds until they are due: an ETA, a countdown, a retry's delay.

Celery 5.7 lists them in ``celery.worker.state.scheduled_requests``, each with its entry in the timer. Before,
nothing has them but the timer, where ``inspect().scheduled()`` looks too: as the first argument of an entry
(celery/worker/strategy.py). Read and dropped on the worker's event loop, where nothing moves meanwhile.
"""

from __future__ import annotations

from heapq import heapify
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery.worker.request import Request

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["drop_scheduled", "scheduled_requests"]

_state: Any = import_module("celery.worker.state")


def scheduled_requests(consumer: Any) -> Collection[Any]:
    """Return the requests that ``consumer`` holds until they are due."""
    found: Collection[Any] | None = getattr(_state, "scheduled_requests", None)
    return list(_entries(consumer.timer)) if found is None else list(found)


def drop_scheduled(consumer: Any) -> None:
    """Forget them all and acknowledge their messages: nobody is to run them."""
    listed: set[Any] | None = getattr(_state, "scheduled_requests", None)
    entries = _entries(consumer.timer)
    for request in scheduled_requests(consumer):
        entry = entries[request] if listed is None else request._eta_timer_entry  # noqa: SLF001 - as Consumer.on_close
        consumer.timer.cancel(entry)
        consumer.qos.decrement_eventually()
        request.acknowledge()
        if listed is not None:
            listed.discard(request)
        _state.requests.pop(request.id, None)
    _forget_cancelled(consumer.timer)


def _entries(timer: Any) -> dict[Any, Any]:
    entries = [each.entry for each in _schedule(timer)._queue]  # noqa: SLF001 - kombu's timer tells of none
    return {
        entry.args[0]: entry
        for entry in entries
        if entry.args and isinstance(entry.args[0], Request) and not entry.canceled
    }


def _forget_cancelled(timer: Any) -> None:
    # A cancelled entry never fires, but inspect().scheduled() would list it until it is due.
    schedule = _schedule(timer)
    schedule._queue[:] = [entry for entry in schedule._queue if not entry.entry.canceled]  # noqa: SLF001
    heapify(schedule._queue)  # noqa: SLF001 - kombu's timer offers no way to drop an entry


def _schedule(timer: Any) -> Any:
    return getattr(timer, "schedule", timer)
