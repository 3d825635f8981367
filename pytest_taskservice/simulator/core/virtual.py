"""The plain timeline: a clock that stands still until it is moved, and nothing that is due by itself."""

from __future__ import annotations

from collections.abc import Callable

from pytest_taskservice.simulator.core.readings import READING, measures_short

__all__ = ["MONOTONIC_START", "VirtualTimeline"]

MONOTONIC_START = 10_000.0
"""As in a ``Simulation``, whose module needs greenlets."""


class VirtualTimeline:
    """Implements ``Timeline`` for a world whose event loops know everything that is due.

    ``start`` is the wall clock's first instant, in seconds since the Unix epoch; ``on_move`` is told each
    new one.
    """

    def __init__(self, *, start: float, on_move: Callable[[float], None]) -> None:
        # Their difference is kept, not the wall clock: added up in small steps it would lose digits.
        self._offset = start - MONOTONIC_START
        self._monotonic = self._read = MONOTONIC_START
        self._on_move = on_move

    def monotonic(self) -> float:
        """Return the virtual monotonic clock, in seconds."""
        return self._monotonic

    def now(self) -> float:
        """Return the virtual wall clock, in seconds since the Unix epoch."""
        return self._monotonic + self._offset

    def read(self) -> None:
        """Let a moment pass before a reading of the clock, if what has passed would measure short."""
        if measures_short(self._read, self._monotonic, self._offset):
            self.run_until(self._monotonic + READING)
        self._read = self._monotonic

    def next_event(self) -> float | None:
        """Return ``None``."""
        return None

    def run_until(self, instant: float) -> None:
        """Stand at the monotonic ``instant``; an earlier one than now is no reason to go back."""
        if instant > self._monotonic:
            self._monotonic = instant
            self._on_move(self.now())

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back, as somebody does by hand; no timer moves with it."""
        self._offset += seconds
        self._on_move(self.now())
