"""The timetable: which entry is due, and when the next one will be.

Pure by design: the present arrives as an argument, so Celery's beat and the one in process agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["Due", "Interval", "Timetable", "Timing"]

SHORTEST: Final = timedelta(milliseconds=1)
LONGEST: Final = timedelta(days=36525)
AHEAD: Final = timedelta(minutes=1)
"""A last instant this far in the future means that the clock was put back."""


class Timing(Protocol):
    """When something is due again. Every instant is in UTC."""

    def after(self, last: datetime, now: datetime) -> datetime:
        """Return the first due instant after ``last``.

        ``now`` is for a timing that can only tell whether it is due at present.
        """

    def latest(self, due: datetime, now: datetime) -> datetime:
        """Return the last due instant up to ``now``; ``due``, one of them, is over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Every so often, on a grid that never drifts; what was missed is made up for once."""

    every: timedelta

    def __post_init__(self) -> None:
        if not SHORTEST <= self.every <= LONGEST:
            raise ValueError(f"need {SHORTEST.total_seconds():g} s to 100 years, got {self.every}")

    def after(self, last: datetime, now: datetime) -> datetime:
        """See `Timing`."""
        return last + self.every

    def latest(self, due: datetime, now: datetime) -> datetime:
        """See `Timing`."""
        return due + (now - due) // self.every * self.every


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """An entry and the instant it is wanted for, which may be long over."""

    name: str
    at: datetime


class Timetable:
    """The state of all entries: when each was last due, and when it is next."""

    def __init__(self, timings: Mapping[str, Timing]) -> None:
        self._timings = dict(timings)
        self._last: dict[str, datetime] = {}
        self._next: dict[str, datetime] = {}

    def begin(self, lasts: Mapping[str, datetime], now: datetime) -> None:
        """Start from ``lasts``; an entry that is not among them, from ``now``."""
        for name in self._timings:
            self._set(name, lasts.get(name, now), now)

    def due(self, now: datetime) -> list[Due]:
        """Return what is due, the longest overdue first; once per entry, however much was missed."""
        found = []
        for name, timing in self._timings.items():
            if self._last[name] - now > AHEAD:
                self._set(name, now, now)
            if self._next[name] > now:
                continue

            # A timing that knows only the present is asked again.
            self._next[name] = at = timing.after(self._last[name], now)
            if at <= now:
                found.append(Due(name=name, at=at))
        return sorted(found, key=lambda due: due.at)

    def done(self, due: Due, now: datetime) -> datetime:
        """Mark ``due`` and all before it as launched; return its new last instant."""
        last = self._timings[due.name].latest(due.at, now)
        self._set(due.name, last, now)
        return last

    def lasts(self) -> dict[str, datetime]:
        """Return when each entry was last due."""
        return dict(self._last)

    def wait(self, now: datetime) -> float:
        """Return the seconds until something is due; infinite if nothing ever is."""
        if not self._next:
            return float("inf")

        return max(0.0, (min(self._next.values()) - now).total_seconds())

    def _set(self, name: str, last: datetime, now: datetime) -> None:
        self._last[name] = last = now if last - now > AHEAD else last
        self._next[name] = self._timings[name].after(last, now)
