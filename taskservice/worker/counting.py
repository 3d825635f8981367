"""Processes of a prefork pool that may be killed at any instant and hang nobody.

Before such a process ends, it looks ten times a second whether the worker has read all its results, by a
counter whose lock the two share. A hard time limit kills it a tenth of a second after it has been told to
end, so now and then just while it looks: the lock stays taken, and at the next result of that process the
worker stands still for ever. Only the worker counts; to look takes no lock.

Leaned on, of billiard/pool.py: ``Worker._ensure_messages_consumed``, which looks, and
``Worker.on_ready_counter``, a synchronized value. Without them nobody looks.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from billiard import pool as billiard_pool
from celery import signals

__all__ = ["install_counting"]

_LOOK = "_ensure_messages_consumed"


def install_counting() -> None:
    """Have the pools of this process's workers count without a lock; a second call does nothing."""
    signals.worker_init.connect(_install, dispatch_uid="taskservice-counting")


def _install(**_: object) -> None:
    worker: Any = billiard_pool.Worker
    original = getattr(worker, _LOOK, None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def look(self: Any, completed: int) -> Any:
        if hasattr(self.on_ready_counter, "get_obj"):
            self.on_ready_counter = _Count(self.on_ready_counter.get_obj())
        return original(self, completed)

    setattr(worker, _LOOK, look)


class _Count:
    """Reads a shared number as it is."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    @property
    def value(self) -> int:
        return int(self._shared.value)
