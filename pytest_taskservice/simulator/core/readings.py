"""What readings of a virtual clock tell of a wait: never less than was waited for.

A real sleep is always a little longer than it was to be. One that is exact would measure shorter now and
then, by what floats and whole microseconds lose: ``time.time() - began >= 0.1`` fails after
``time.sleep(0.1)``.
"""

from __future__ import annotations

__all__ = ["READING", "measures_short"]

READING = 2e-6
"""Seconds between two readings of the clock, more than the microseconds that it is told in."""

_GRID = 16
_LAST_DIGIT = 1e-9


def measures_short(then: float, now: float, wall: float) -> bool:
    """Return whether what passed from one monotonic instant to another may measure shorter than it was.

    ``wall`` is what the wall clock is ahead of the monotonic one. Whole seconds, halves and the like are
    exact in floats.
    """
    passed = now - then
    exact = round(passed * _GRID) / _GRID
    if abs(passed - exact) > _LAST_DIGIT or passed < exact:
        return True
    return round((now + wall) * 1e6) - round((then + wall) * 1e6) < exact * 1e6
