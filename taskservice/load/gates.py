"""Gates: what a run must not do, ``p95>200ms`` or ``lost>0``, read before anything starts.

A metric is a percentile of one part of a run's way, ``queue_wait.p99``, or a count. Without a part it is what
users feel, ``end_to_end``, corrected for coordinated omission.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from taskservice.errors import ConfigurationError
from taskservice.load.quantities import SPAN_UNITS, show_count, show_span

__all__ = ["COUNTS", "METRICS", "PARTS", "STATISTICS", "Gate", "Verdict", "parse_gate"]

PARTS: Final = ("enqueue", "queue_wait", "run", "end_to_end", "uncorrected")
STATISTICS: Final = ("min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max")
COUNTS: Final = (
    "arrivals", "sent", "done", "failures", "lost", "queued", "taken", "unknown", "backlog", "max_backlog"
)  # fmt: skip
RATES: Final = ("throughput", "sent_rate", "arrival_rate")
SHARES: Final = ("failure_rate",)
METRICS: Final = (
    *STATISTICS,
    *(f"{part}.{statistic}" for part in PARTS for statistic in STATISTICS),
    *COUNTS,
    *RATES,
    *SHARES,
)

_ALIASES: Final = {"p999": "p99.9"}
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GATE: Final = re.compile(r"\s*([\w.]+)\s*(>=|<=|>|<)\s*(\d+(?:\.\d+)?)\s*([\w/%]*)\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A comparison of one metric; ``bound`` is in seconds, a count, a rate or a share of 1."""

    text: str
    metric: str
    sign: str
    bound: float

    def holds(self, figures: Mapping[str, float | None]) -> bool | None:
        """Return whether the comparison is true; ``None`` where the metric has no data."""
        value = figures.get(self.metric)
        return None if value is None else _OPERATORS[self.sign](value, self.bound)

    def as_failure(self, figures: Mapping[str, float | None]) -> Verdict:
        """Return the verdict of a gate that fails if it is true; without data it fails too."""
        return self._verdict(figures, passed=self.holds(figures) is False)

    def as_goal(self, figures: Mapping[str, float | None]) -> Verdict:
        """Return the verdict of a gate that must be true."""
        return self._verdict(figures, passed=self.holds(figures) is True)

    def _verdict(self, figures: Mapping[str, float | None], *, passed: bool) -> Verdict:
        value = figures.get(self.metric)
        return Verdict(gate=self.text, passed=passed, found=_shown(self.metric, value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What came of a gate."""

    gate: str
    passed: bool
    found: str


def parse_gate(text: str) -> Gate:
    """Return the gate that ``text`` means, or raise `ConfigurationError` that says what is wrong with it."""
    found = _GATE.fullmatch(text)
    if found is None:
        raise ConfigurationError(f"cannot read the gate {text!r}; write one such as p95>200ms or lost>0")

    name, sign, number, unit = found.groups()
    metric = _metric(name)
    return Gate(
        text=text.strip(), metric=metric, sign=sign, bound=float(number) * _unit_size(metric, unit, text)
    )


def _metric(name: str) -> str:
    part, _, last = name.rpartition(".") if not name.endswith("99.9") else _split_999(name)
    metric = ".".join(filter(None, (part, _ALIASES.get(last, last))))
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join((*STATISTICS, *COUNTS, *RATES))}"
        raise ConfigurationError(f"unknown metric {name!r} in a gate; {hint}")

    return metric if "." not in metric or metric == "p99.9" else metric.removeprefix("end_to_end.")


def _split_999(name: str) -> tuple[str, str, str]:
    # The point of 99.9 is none between a part and its percentile.
    part, dot, last = name.removesuffix(".9").rpartition(".")
    return part, dot, f"{last}.9"


def _unit_size(metric: str, unit: str, text: str) -> float:
    allowed: Mapping[str, float]
    if metric in COUNTS:
        allowed = {"": 1.0}
    elif metric in RATES:
        allowed = {"": 1.0, "/s": 1.0, "/m": 1 / 60}
    elif metric in SHARES:
        allowed = {"%": 0.01}
    else:
        allowed = SPAN_UNITS
    if unit not in allowed:
        units = ", ".join(name or "none" for name in allowed)
        raise ConfigurationError(f"found the unit {unit or 'none'} in the gate {text!r}; allowed: {units}")

    return allowed[unit]


def _shown(metric: str, value: float | None) -> str:
    if value is None:
        return "no data"
    if metric in COUNTS:
        return show_count(value)
    if metric in RATES:
        return f"{show_count(value)}/s"
    return f"{value:.2%}" if metric in SHARES else show_span(value)
