"""The canary: a trivial job that a worker sends through its own pool, to see whether it comes back.

It goes the way of a run, from the worker's own event loop, and never over the broker: it waits for a
free slot and gives it back, is neither acknowledged nor counted as a task, and nobody else sees it.
Only ``max_tasks_per_child`` counts it, inside the child, so a pool with that limit gets few.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from celery.worker import state

from taskservice.health import PoolState, pool_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskservice.settings import Settings

__all__ = ["Canary", "Pulse", "pool_name"]

ATTEMPTS: Final = 3
"""How many canaries are sent, at least, before a pool counts as hung."""
POOLS: Final = frozenset({"prefork", "threads", "solo"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """How a pool is: for how long the canary has been out, and nothing came back; seconds or ``None``."""

    state: PoolState
    out: float | None = None
    silent: float | None = None


class Canary:
    """Sends one at a time from ``consumer``'s timer; the pulse may be taken from another thread."""

    def __init__(self, consumer: Any, settings: Settings, *, clock: Callable[[], float] = monotonic) -> None:
        self._consumer = consumer
        self._clock = clock
        self._timeout = settings.canary_timeout.total_seconds()
        self._interval = _interval(consumer.pool, settings)
        self._entry: Any = None
        self._sent: float | None = None
        self._waits = False
        self._answered = clock()
        self._seen: tuple[int, frozenset[str]] = (0, frozenset())

    def start(self) -> None:
        """Begin, or begin again after a reconnection, which may have thrown away the one that was out."""
        self.stop()
        self._sent, self._waits = None, False
        if _takes_canaries(self._consumer):
            self._entry = self._consumer.timer.call_repeatedly(self._interval, self.tick)

    def stop(self) -> None:
        """Send no more."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def tick(self) -> None:
        """Send one, unless one is out or a run has just shown that the pool lives."""
        pool = self._consumer.pool
        now = self._clock()
        if not pool.active or pool.num_processes < 1 or now - self._answered < self._interval / 2:
            return
        # A restart of the pool loses one, and a slot may hang alone: then another is sent in time.
        lost = _counts_slots(self._consumer) and now - (self._sent or now) >= self._timeout / ATTEMPTS
        if self._waits or (self._sent is not None and not lost):
            return

        self._sent, self._waits = now, True
        if _counts_slots(self._consumer):
            # Every job of such a pool gives a slot back, so this one has to take one.
            self._consumer.controller.semaphore.acquire(self._apply)
        else:
            self._apply()

    def pulse(self, *, slots: int, running: tuple[str, ...]) -> Pulse:
        """Return how the pool is, with these runs on it. A run's start or end is an answer too."""
        seen = (state.all_total_count[0], frozenset(running))
        before, self._seen = self._seen, seen
        now = self._clock()
        if seen[0] != before[0] or before[1] - seen[1]:
            self._answered = now
        if not _takes_canaries(self._consumer):
            return Pulse(state=PoolState.UNKNOWN)

        sent, silent = self._sent, max(0.0, now - self._answered)
        found = pool_state(slots=slots, running=len(running), silent=silent, timeout=self._timeout)
        return Pulse(state=found, out=None if sent is None else now - sent, silent=silent)

    def _apply(self) -> None:
        self._waits = False
        taken = self._consumer.pool.apply_async(os.getpid, callback=self._back, error_callback=self._back)
        if taken is None and _counts_slots(self._consumer):
            self._consumer.controller.semaphore.release()  # the pool is closing

    def _back(self, _: object) -> None:
        # Its process may have died on the way: the pool that says so lives.
        self._sent = None
        self._answered = self._clock()


def pool_name(pool: object) -> str:
    """Return the kind of ``pool`` as ``--pool`` calls it."""
    module = type(pool).__module__.rpartition(".")[2]
    return "threads" if module == "thread" else module


def _takes_canaries(consumer: Any) -> bool:
    # Without an event loop timers run in a thread, and only a pool of threads may be used from there.
    kind = pool_name(consumer.pool)
    return kind == "threads" or (kind in POOLS and consumer.hub is not None)


def _counts_slots(consumer: Any) -> bool:
    controller = consumer.controller
    return bool(consumer.pool.uses_semaphore and controller.pool_putlocks and controller.semaphore)


def _interval(pool: Any, settings: Settings) -> float:
    often = settings.canary_timeout.total_seconds() / ATTEMPTS
    limited = pool.options.get("maxtasksperchild")
    return often if limited else min(often, settings.heartbeat_interval.total_seconds())
