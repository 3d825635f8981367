"""Spans of time and rates as people write them: ``200ms``, ``1.5s``, ``2m``, ``500/s``."""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["SPAN_UNITS", "parse_rate", "parse_span", "show_count", "show_span"]

SPAN_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_RATE_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|h))?")


def parse_span(text: str) -> float:
    """Return the seconds of ``text``; `ValueError` without a unit, since 200 may be either."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"found {text!r}; write a span such as 200ms, 30s or 2m")

    return float(found[1]) * SPAN_UNITS[found[2]]


def parse_rate(text: str) -> float:
    """Return how many a second ``text`` is; without a unit it is that already."""
    found = _RATE.fullmatch(text.strip())
    rate = float(found[1]) / _RATE_UNITS[found[2] or "s"] if found else 0.0
    if not 0 < rate <= 1_000_000:
        raise ValueError(f"found {text!r}; write a rate above 0 such as 500/s or 30/m")

    return rate


def show_span(seconds: float | None) -> str:
    """Return a span as the reports show it, with three digits."""
    if seconds is None or math.isnan(seconds):
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds / 1e-6)} µs" if seconds else "0 ms"


def show_count(value: float | None) -> str:
    """Return a count or a rate as the reports show it."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def _three_digits(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"
