"""The time of one play: how it passes, and what is due beside the steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

__all__ = ["REAL_TIME", "Clock", "Pace"]

_POLL = 0.01
_LATER_BY = 0.01
# What is finer than a clock's resolution would never pass.
_FINEST = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """How the engine reads time and lets it pass.

    ``monotonic`` paces the steps, ``wall`` is the clock of the world's log, and ``pause`` waits for
    at most so many seconds.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    pause: Callable[[float], object]


def _pause(seconds: float) -> None:
    # Unlike sleep, a wait for an event that nobody sets is left alone by moved clocks.
    threading.Event().wait(seconds)


REAL_TIME = Clock(monotonic=time.monotonic, wall=time.time, pause=_pause)


class Pace:
    """Seconds since the start of a play."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero = clock.monotonic()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.start = clock.wall()
        """The start, in the log's clock."""

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self._clock.monotonic() - self._zero

    def log_time(self) -> float:
        """Return the present in the log's clock, whatever somebody has done to that of the wall."""
        return self.start + self.elapsed()

    def at(self, instant: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``instant``, if anybody lets time pass until then."""
        heappush(self._due, (instant, next(self._numbers), action))

    def wait_until(self, instant: float) -> None:
        """Let time pass until ``instant``, and do what is due by then."""
        while self._due and self._due[0][0] <= instant:
            due, _, action = heappop(self._due)
            self._pause_until(due)
            action()
        self._pause_until(instant)

    def wait_for(self, ready: Callable[[], bool], *, until: float, later_by: float = _LATER_BY) -> bool:
        """Wait for ``ready()`` up to ``until``; return whether it is.

        It may be found out later by the share ``later_by`` of the time that it took.
        """
        began = self.elapsed()
        while not ready():
            now = self.elapsed()
            if now >= until:
                return False
            # Whoever waits for an hour need not be told to the hundredth of a second.
            self.wait_until(min(now + max(_POLL, later_by * (now - began)), until))
        return True

    def forget(self) -> None:
        """Do nothing any more of what was due."""
        self._due.clear()

    def _pause_until(self, instant: float) -> None:
        while (left := instant - self.elapsed()) > _FINEST:
            self._clock.pause(left)
