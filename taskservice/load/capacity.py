"""The highest rate that holds a goal: doubled until it does not, then halved between. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Trial", "find_limit"]

MOST_TRIALS: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One rate that was tried, and whether the goal held; ``why`` says what was found."""

    rate: float
    held: bool
    why: str
    throughput: float | None = None
    p95: float | None = None


def find_limit(
    start: float, attempt: Callable[[float], Trial], *, precision: float = 0.1
) -> tuple[float | None, list[Trial]]:
    """Return the highest rate that held, ``None`` if none did, and all trials.

    Between it and the lowest rate that did not hold there is no more than ``precision`` of it.
    """
    trials: list[Trial] = []

    def holds(rate: float) -> bool:
        trials.append(attempt(rate))
        return trials[-1].held

    low, high, rate = 0.0, float("inf"), start
    while len(trials) < MOST_TRIALS and high - low > precision * max(low, 1.0):
        if holds(rate):
            low = rate
        else:
            high = rate
        if high == float("inf"):
            rate = low * 2
        elif low == 0.0 and high > 1.0:
            rate = high / 4
        else:
            rate = (low + high) / 2
    return low or None, trials
