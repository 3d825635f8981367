"""Sweeping as the runtime's sweepers do, at every second of a world's time, but for those that bring nothing.

A day in which nobody answers is one sweep, not 86,400.
"""

from __future__ import annotations

import threading
from math import ceil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.drivers.workflow_upkeep import Later

__all__ = ["Sweeps"]

INTERVAL: Final = 1.0
"""How often a sweeper sweeps, by the runtime's own setting."""


class Sweeps:
    """Has ``sweep`` called at the first second after each instant that ``next_due`` returns.

    ``plan`` is to be called whenever that may be another one, from any thread.
    """

    def __init__(
        self,
        next_due: Callable[[], float | None],
        *,
        now: Callable[[], float],
        later: Later,
        sweep: Callable[[], object],
    ) -> None:
        self._next_due = next_due
        self._now = now
        self._later = later
        self._sweep = sweep
        self._lock = threading.Lock()
        self._zero = now()
        self._last = float("-inf")
        self._at: float | None = None
        self._cancel: Callable[[], object] = _nothing

    def plan(self) -> None:
        """See to it that the next instant is not missed."""
        instant = self._next_due()
        if instant is None:
            return

        with self._lock:
            now = self._now()
            tick = self._zero + ceil((instant - self._zero) / INTERVAL) * INTERVAL
            # What was not swept away, nobody being there to sweep, is looked at again.
            at = max(tick, now, self._last + INTERVAL)
            if self._at is not None and self._at <= at:
                return
            self._cancel()
            self._at = at
            self._cancel = self._later(at - now, self._begin)

    def _begin(self) -> object:
        with self._lock:
            self._at, self._last = None, self._now()
        return self._sweep()


def _nothing() -> None:
    pass
