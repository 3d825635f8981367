"""Figures: what a clock said, and what two ways of doing the same come to, round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Comparison", "Spread", "clocked", "clocked_async", "percentile"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, and between which of them it lies."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.least)}-{_short(self.most)})"

    def as_json(self) -> dict[str, float]:
        return {name: round(getattr(self, name), 3) for name in ("median", "least", "most")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two ways to do the same, in units per second, or in ``ms`` where lower is better."""

    name: str
    ours: str
    theirs: str
    aim: float
    unit: str = "/s"
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def add(self, ours: float, theirs: float) -> None:
        """Add one round."""
        self.pairs.append((ours, theirs))

    @property
    def ratio(self) -> Spread:
        return Spread.of([ours / theirs for ours, theirs in self.pairs])

    @property
    def reached(self) -> bool:
        median = self.ratio.median
        return median >= self.aim if self.unit == "/s" else median <= self.aim

    def spreads(self) -> tuple[Spread, Spread]:
        ours, theirs = zip(*self.pairs, strict=True)
        return Spread.of(ours), Spread.of(theirs)

    def as_json(self) -> dict[str, Any]:
        ours, theirs = self.spreads()
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": {"way": self.ours, **ours.as_json()},
            "theirs": {"way": self.theirs, **theirs.as_json()},
            "ratio": self.ratio.as_json(),
            "aim": self.aim,
            "reached": self.reached,
        }


def clocked(count: int, act: Callable[[], object]) -> float:
    """Return how many a second ``act`` does, doing ``count``."""
    started = time.perf_counter()
    act()
    return count / (time.perf_counter() - started)


async def clocked_async(
    count: int, act: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return how many a second of ``clock`` ``act`` does, doing ``count``."""
    started = clock()
    await act()
    return count / (clock() - started)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value below which ``percent`` of a hundred are."""
    return statistics.quantiles(values, n=100)[percent - 1]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
