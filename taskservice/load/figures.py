"""Figures of an account: every metric that a gate may name, and the timeline of the plots. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskservice.load.gates import PARTS

if TYPE_CHECKING:
    from taskservice.load.account import Account, Second
    from taskservice.load.histogram import Histogram
    from taskservice.load.plan import LoadPlan

__all__ = ["Moment", "all_figures", "corrected_parts", "timeline", "window_figures"]

_PERCENTS: Final = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}


def corrected_parts(account: Account, plan: LoadPlan) -> dict[str, Histogram]:
    """Return the histogram of each part, with the latency as users would have felt it.

    Runs with an instant at which they were due, by a rate or a pace, are measured from there. Users that send
    when they can have none; of them, what their stalls left out is put back, for users who would go on at
    their usual pace.
    """
    parts = {name: account.parts[name] for name in PARTS}
    if not plan.open and plan.pace is None:
        usual = parts["end_to_end"].percentile(50)
        parts["end_to_end"] = parts["end_to_end"].corrected(usual or 0.0)
    return parts


def all_figures(account: Account, plan: LoadPlan) -> dict[str, float | None]:
    """Return every metric by its name, ``None`` where nothing is known; spans in seconds."""
    found: dict[str, float | None] = {}
    for part, histogram in corrected_parts(account, plan).items():
        prefix = "" if part == "end_to_end" else f"{part}."
        found.update({f"{prefix}{name}": value for name, value in _statistics(histogram).items()})
    ends = account.ends
    failures = ends["failed"] + ends["refused"]
    backlogs = [second.waiting for _, second in sorted(account.seconds.items()) if second.waiting is not None]
    found.update(
        arrivals=account.arrivals,
        sent=account.sent,
        done=ends["done"],
        failures=failures,
        lost=ends["lost"],
        queued=ends["queued"],
        taken=ends["taken"],
        unknown=ends["unknown"] + max(0, account.open_runs),
        backlog=backlogs[-1] if backlogs else None,
        max_backlog=max(backlogs) if backlogs else None,
        throughput=account.timely / account.elapsed if account.elapsed else None,
        sent_rate=account.timely_sent / account.elapsed if account.elapsed else None,
        arrival_rate=account.measured / account.elapsed if account.elapsed else None,
        failure_rate=failures / account.arrivals if account.arrivals else None,
    )
    return found


def window_figures(account: Account, start: float, end: float) -> dict[str, float | None]:
    """Return the metrics of a few seconds: latency, failures, throughput, backlog, while all goes on."""
    window = account.window(start, end)
    ended = window.done + window.failed
    found = _statistics(window.latency)
    found.update(
        done=window.done,
        failures=window.failed,
        failure_rate=window.failed / ended if ended else None,
        throughput=window.done / (end - start),
        arrival_rate=window.arrivals / (end - start),
        backlog=window.waiting,
        max_backlog=window.waiting,
    )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One second of the run, ``at`` seconds from its start."""

    at: int
    users: int
    arrivals: int
    done: int
    failed: int
    in_flight: int
    waiting: int | None
    unacked: int | None
    p50: float | None
    p95: float | None
    p99: float | None


def timeline(account: Account, started: float) -> list[Moment]:
    """Return every second from the start to the last that anything is known of."""
    if not account.seconds:
        return []

    first = int(started)
    return [_moment(at - first, account.seconds.get(at)) for at in range(first, max(account.seconds) + 1)]


def _moment(at: int, second: Second | None) -> Moment:
    if second is None:
        return Moment(
            at=at, users=0, arrivals=0, done=0, failed=0, in_flight=0,
            waiting=None, unacked=None, p50=None, p95=None, p99=None,
        )  # fmt: skip

    return Moment(
        at=at,
        users=second.users,
        arrivals=second.arrivals,
        done=second.done,
        failed=second.failed,
        in_flight=second.in_flight,
        waiting=second.waiting,
        unacked=second.unacked,
        p50=second.latency.percentile(50),
        p95=second.latency.percentile(95),
        p99=second.latency.percentile(99),
    )


def _statistics(histogram: Histogram) -> dict[str, float | None]:
    found = {name: histogram.percentile(percent) for name, percent in _PERCENTS.items()}
    edges = {"min": histogram.least, "max": histogram.most} if histogram.count else {"min": None, "max": None}
    return {**edges, "mean": histogram.mean, **found}
