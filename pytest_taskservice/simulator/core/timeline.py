"""What an event loop in virtual time needs to know of the world's clock."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SteppedTimeline", "Timeline"]


class Timeline(Protocol):
    """A clock that stands still until it is moved, and the events that are due on the way."""

    def monotonic(self) -> float:
        """Return the virtual monotonic clock, in seconds."""

    def now(self) -> float:
        """Return the virtual wall clock, in seconds since the Unix epoch."""

    def next_event(self) -> float | None:
        """Return the monotonic instant of the next thing due; ``None`` when nothing ever is."""

    def run_until(self, instant: float) -> None:
        """Run what is due up to the monotonic ``instant``, and stand there."""


class SteppedTimeline(Protocol):
    """A ``Timeline`` whose wall clock can be set, and is told who reads it."""

    def read(self) -> None:
        """Let a moment pass before a reading, where it takes one."""

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back; no timer moves with it."""
