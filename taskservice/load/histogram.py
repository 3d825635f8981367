"""Latencies counted in buckets: exact enough for any percentile, small, and added up across processes.

A bucket is a hundredth wider than the one before, so a percentile is at most one per cent too high; least and
most are exact.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final, Self

__all__ = ["Histogram"]

LEAST: Final = 1e-6
MAX_STEPS: Final = 100_000
"""How many samples one stall may add: an interval this much shorter than it says nothing."""


class Histogram:
    """A number of spans in seconds; ``growth`` is how much wider each bucket is than the one before."""

    def __init__(self, growth: float = 1.01) -> None:
        self._growth = growth
        self._scale = 1.0 / math.log(growth)
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count a span; a clock that went back by a hair makes it 0."""
        value = max(seconds, 0.0)
        self._buckets[self._bucket(value)] += times
        self.count += times
        self.total += value * times
        self.least = min(self.least, value)
        self.most = max(self.most, value)

    def merge(self, other: Histogram) -> None:
        """Count all that ``other`` counted."""
        self._buckets.update(other._buckets)
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def percentile(self, percent: float) -> float | None:
        """Return the span that ``percent`` of a hundred do not exceed; ``None`` if there is none at all."""
        if not self.count:
            return None

        wanted = max(1, math.ceil(self.count * percent / 100 - 1e-9))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(max(self._upper(bucket), self.least), self.most)
        raise AssertionError("unreachable")

    @property
    def mean(self) -> float | None:
        """The mean, ``None`` if there is none."""
        return self.total / self.count if self.count else None

    def corrected(self, interval: float) -> Histogram:
        """Return it with the samples that a stall kept from being taken: coordinated omission, put right.

        Who sends a request every ``interval`` seconds and waits ten times as long for one has left out nine,
        which would have waited ever less.
        """
        made = Histogram(self._growth)
        made.merge(self)
        if interval <= 0:
            return made

        for bucket, times in self._buckets.items():
            left = min(self._upper(bucket), self.most) - interval
            step = max(interval, left / MAX_STEPS)
            while left >= interval:
                made.add(left, times)
                left -= step
        return made

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "growth": self._growth,
            "buckets": [[bucket, self._buckets[bucket]] for bucket in sorted(self._buckets)],
            "total": self.total,
            "least": self.least if self.count else None,
            "most": self.most,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return what `to_json` was made of."""
        made = cls(data["growth"])
        made._buckets.update({int(bucket): int(times) for bucket, times in data["buckets"]})
        made.count = made._buckets.total()
        made.total = data["total"]
        made.least = math.inf if data["least"] is None else data["least"]
        made.most = data["most"]
        return made

    def _bucket(self, value: float) -> int:
        return 0 if value <= LEAST else 1 + int(math.log(value / LEAST) * self._scale)

    def _upper(self, bucket: int) -> float:
        return LEAST * self._growth**bucket
