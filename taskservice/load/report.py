"""The report of a load run as values: figures, ends, timeline, verdicts; as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from taskservice.load.account import ENDS
from taskservice.load.figures import Moment, all_figures, corrected_parts, timeline
from taskservice.load.gates import PARTS, STATISTICS, Gate, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskservice.load.account import Account
    from taskservice.load.histogram import Histogram
    from taskservice.load.plan import LoadPlan
    from taskservice.load.supervise import Ran

__all__ = ["PART_TITLES", "PartRow", "Report", "make_report", "summary_csv", "timeline_csv"]

PART_TITLES: Final = {
    "end_to_end": "end to end",
    "uncorrected": "uncorrected",
    "enqueue": "enqueue",
    "queue_wait": "queue wait",
    "run": "run",
}
KNOWN: Final = 0.99
LATE: Final = 0.02
"""From when on the generator's own lateness is worth a word, in seconds at the 95th percentile."""
_PACKAGES: Final = ("taskservice", "celery", "locust", "redis")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRow:
    """One part of a run's way: how many, and their spans in seconds."""

    name: str
    count: int
    spans: dict[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that is shown. ``ended`` is ``done``, ``interrupted`` or ``died``."""

    title: str
    model: str
    stack: tuple[str, ...]
    ended: str
    died: str
    elapsed: float
    started: float
    figures: dict[str, float | None]
    ends: dict[str, int]
    parts: tuple[PartRow, ...]
    timeline: tuple[Moment, ...]
    errors: dict[str, int]
    notes: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    plan: dict[str, Any]
    machine: dict[str, Any]
    trials: tuple[dict[str, Any], ...] = ()
    limit: float | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate holds and nothing was lost."""
        return all(verdict.passed for verdict in self.verdicts) and not self.ends["lost"]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; spans in seconds."""
        return {**asdict(self), "passed": self.passed, "started": _instant(self.started)}


def make_report(  # noqa: PLR0913 - one report, and all of it
    ran: Ran,
    plan: LoadPlan,
    *,
    title: str,
    stack: Sequence[str],
    gates: Sequence[Gate],
    words: Sequence[str] = (),
) -> Report:
    """Return the report of a run; ``words`` are notes that were there before it."""
    account = ran.account
    figures = all_figures(account, plan)
    ends = {name: account.ends[name] for name in ENDS}
    ends["unknown"] += max(0, account.open_runs)
    parts = corrected_parts(account, plan)
    return Report(
        title=title,
        model=_model(plan),
        stack=tuple(stack),
        ended=ran.ended,
        died=ran.died,
        elapsed=account.elapsed,
        started=ran.started,
        figures=figures,
        ends=ends,
        parts=tuple(_row(name, parts[name]) for name in PART_TITLES),
        timeline=tuple(timeline(account, ran.started)),
        errors=dict(account.errors.most_common()),
        notes=(*words, *_notes(account, plan), *sorted(account.notes)),
        verdicts=tuple(gate.as_failure(figures) for gate in gates),
        plan=_public(plan),
        machine=_machine(),
    )


def summary_csv(report: Report) -> str:
    """Return a line for each part of a run's way; spans in seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "count", *STATISTICS])
    for row in report.parts:
        writer.writerow([row.name, row.count, *(_cell(row.spans[name]) for name in STATISTICS)])
    return text.getvalue()


def timeline_csv(report: Report) -> str:
    """Return a line for each second; spans in seconds."""
    text = io.StringIO()
    names = list(Moment.__dataclass_fields__)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for moment in report.timeline:
        writer.writerow({name: _cell(value) for name, value in asdict(moment).items()})
    return text.getvalue()


def _row(name: str, histogram: Histogram) -> PartRow:
    percents = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
    spans: dict[str, float | None] = {
        "min": histogram.least if histogram.count else None,
        "mean": histogram.mean,
        **{key: histogram.percentile(percent) for key, percent in percents.items()},
        "max": histogram.most if histogram.count else None,
    }
    return PartRow(name=name, count=histogram.count, spans=spans)


def _model(plan: LoadPlan) -> str:
    users = plan.user_count
    if plan.open:
        return f"open: {plan.rate:g}/s due, {plan.arrivals}, from {users} sources"
    pace = "each as soon as it can" if plan.pace is None else f"every {plan.pace:g} s"
    return f"closed: {users} user{'s' if users > 1 else ''}, {pace}"


def _notes(account: Account, plan: LoadPlan) -> list[str]:
    notes = []
    ended = account.parts["end_to_end"].count
    known = [account.parts[part].count for part in ("queue_wait", "run")]
    if ended and plan.events and not any(known):
        notes.append("queue wait and run are not known: no task events came; a worker sends them with -E")
    elif 0 < known[0] < ended * KNOWN:
        notes.append(
            f"of {ended - known[0]:,} runs no worker said when they started: queue wait is without them"
        )
    lag = account.parts["lag"].percentile(95)
    if lag is not None and lag > LATE and (plan.open or plan.pace):
        notes.append(
            f"the load generator was late, {lag * 1000:.0f} ms at the 95th percentile: it counts as latency; "
            "give it more --processes, or another machine"
        )
    return notes


def _public(plan: LoadPlan) -> dict[str, Any]:
    # A token is nobody's business, nor is a password in a URL.
    return {name: value for name, value in plan.to_json().items() if name not in {"token", "redirect"}}


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).isoformat(timespec="seconds")


def _cell(value: float | None) -> str | float:
    return "" if value is None else round(value, 6)


assert set(PART_TITLES) == set(PARTS)
