"""The wall clock while a simulation is open: time-machine's, moved event by event.

Leans on ``Traveller._destination_timestamp_ns`` of time-machine: where it is gone, ``shift`` does the same,
and takes ten times as long.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

__all__ = ["WallClock"]

_BILLION = 1_000_000_000
_INSTANT = "_destination_timestamp_ns"


class WallClock:
    """Stands where it was set; :meth:`begin` makes it everybody's, :meth:`end` gives the real one back."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._now = start.timestamp()
        self._travel: Any = None
        self._traveller: Any = None
        self._direct = False

    def begin(self) -> None:
        """Let the process see this clock."""
        import time_machine

        self._travel = time_machine.travel(self._start.astimezone(UTC), tick=False)
        self._traveller = self._travel.start()
        before = getattr(self._traveller, _INSTANT, None)
        self._direct = type(before) is int and abs(before - round(self._now * _BILLION)) < _BILLION

    def end(self) -> None:
        """Let the process see the real one."""
        self._travel.stop()
        self._traveller = None

    def set(self, now: float) -> None:
        """Stand at ``now``, in seconds since the Unix epoch."""
        traveller = self._traveller
        if traveller is None:
            return
        if self._direct and now >= self._now:
            traveller._destination_timestamp_ns = round(now * _BILLION)  # noqa: SLF001 - listed above
        else:
            # Going back, it makes the uuid module forget the instants it has seen.
            traveller.shift(now - self._now)
        self._now = now
