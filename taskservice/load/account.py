"""The account of a load run: what was sent, what became of it, how long each part took, second by second.

Each Locust process keeps one; they are added up. Of what it tells while it goes on only the last seconds are
sent again, since a second that is over does not change.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Self

from taskservice.load.gates import PARTS
from taskservice.load.histogram import Histogram

__all__ = ["ENDS", "Account", "Second"]

ENDS: Final = ("done", "failed", "refused", "lost", "queued", "taken", "unknown")
"""Where a run can be at the end. ``refused``: it could not be sent. ``taken``: a worker has it.
``unknown``: nobody can tell, since broker or load generator are gone."""
COARSE: Final = 1.05
ERRORS_KEPT: Final = 20


@dataclass(slots=True)
class Second:
    """What happened within one second of the wall clock."""

    arrivals: int = 0
    done: int = 0
    failed: int = 0
    latency: Histogram = field(default_factory=lambda: Histogram(COARSE))
    users: int = 0
    waiting: int | None = None
    unacked: int | None = None
    in_flight: int = 0

    def merge(self, other: Second) -> None:
        """Add what another process saw; the broker is the same for all."""
        self.arrivals += other.arrivals
        self.done += other.done
        self.failed += other.failed
        self.latency.merge(other.latency)
        self.users += other.users
        self.in_flight += other.in_flight
        self.waiting = _larger(self.waiting, other.waiting)
        self.unacked = _larger(self.unacked, other.unacked)

    def to_json(self) -> list[Any]:
        """Return it as plain data."""
        latency = self.latency.to_json()
        counts = [self.arrivals, self.done, self.failed, self.users, self.waiting, self.unacked]
        return [*counts, self.in_flight, latency]

    @classmethod
    def from_json(cls, data: list[Any]) -> Self:
        """Return what `to_json` was made of."""
        arrivals, done, failed, users, waiting, unacked, in_flight, latency = data
        return cls(arrivals, done, failed, Histogram.from_json(latency), users, waiting, unacked, in_flight)


class Account:
    """All that is counted.

    ``arrivals`` are the runs that were due, ``timely`` those that ended and ``timely_sent`` those that
    were sent within the measured time, which is ``elapsed`` seconds long. ``open_runs`` are sent and not
    over.
    """

    def __init__(self) -> None:
        self.arrivals = 0
        self.measured = 0
        self.sent = 0
        self.timely = 0
        self.timely_sent = 0
        self.ends: Counter[str] = Counter()
        self.parts = {name: Histogram() for name in (*PARTS, "lag")}
        self.seconds: dict[int, Second] = {}
        self.errors: Counter[str] = Counter()
        self.elapsed = 0.0
        self.notes: set[str] = set()

    @property
    def open_runs(self) -> int:
        """How many runs are under way, or have not been accounted for."""
        return self.arrivals - self.ends.total()

    def second(self, at: float) -> Second:
        """Return the second of the wall clock that ``at`` is in."""
        found = self.seconds.get(int(at))
        if found is None:
            found = self.seconds[int(at)] = Second()
        return found

    def fail(self, end: str, error: str) -> None:
        """Count a run that ended badly, and why."""
        self.ends[end] += 1
        if error in self.errors or len(self.errors) < ERRORS_KEPT:
            self.errors[error] += 1
        else:
            self.errors["(other errors)"] += 1

    def merge(self, other: Account) -> None:
        """Add another process's account."""
        self.arrivals += other.arrivals
        self.measured += other.measured
        self.sent += other.sent
        self.timely += other.timely
        self.timely_sent += other.timely_sent
        self.ends.update(other.ends)
        for name, part in other.parts.items():
            self.parts[name].merge(part)
        for at, second in other.seconds.items():
            self.second(at).merge(second)
        self.errors.update(other.errors)
        self.elapsed = max(self.elapsed, other.elapsed)
        self.notes |= other.notes

    def window(self, start: float, end: float) -> Second:
        """Return the seconds from ``start`` up to ``end`` as one; the backlog is that of the last."""
        found = Second()
        for at in sorted(self.seconds):
            if start <= at < end:
                found.waiting = found.unacked = None
                found.merge(self.seconds[at])
        return found

    def to_json(self, *, since: float = 0.0) -> dict[str, Any]:
        """Return it as plain data, with the seconds from ``since`` on."""
        return {
            "arrivals": self.arrivals,
            "measured": self.measured,
            "sent": self.sent,
            "timely": self.timely,
            "timely_sent": self.timely_sent,
            "ends": dict(self.ends),
            "parts": {name: part.to_json() for name, part in self.parts.items()},
            "seconds": {
                str(at): self.seconds[at].to_json() for at in sorted(self.seconds) if at >= int(since)
            },
            "errors": dict(self.errors),
            "elapsed": self.elapsed,
            "notes": sorted(self.notes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], *, before: Account | None = None) -> Self:
        """Return what `to_json` was made of, with the seconds that ``before`` knew already."""
        made = cls()
        for name in ("arrivals", "measured", "sent", "timely", "timely_sent", "elapsed"):
            setattr(made, name, data[name])
        made.ends.update(data["ends"])
        made.parts = {name: Histogram.from_json(part) for name, part in data["parts"].items()}
        if before is not None:
            made.seconds.update(before.seconds)
        made.seconds.update({int(at): Second.from_json(each) for at, each in data["seconds"].items()})
        made.errors.update(data["errors"])
        made.notes.update(data["notes"])
        return made


def _larger(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return max(left, right)
