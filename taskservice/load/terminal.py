"""A load run in a terminal: a line of progress while it goes on, the tables afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from taskservice.load.gates import STATISTICS
from taskservice.load.quantities import show_count, show_span
from taskservice.load.report import PART_TITLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskservice.load.report import Report

__all__ = ["ProgressLine", "show_report", "sparkline"]

_BARS: Final = "▁▂▃▄▅▆▇█"
SPARK_WIDTH: Final = 50
QUIET_SECONDS: Final = 10.0
_END_TITLES: Final = {
    "done": "done",
    "failed": "failed",
    "refused": "not sent",
    "lost": "lost",
    "queued": "still queued",
    "taken": "with a worker",
    "unknown": "unknown",
}


class ProgressLine:
    """One line that is written over on a terminal, and one every ten seconds in a log."""

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._live = sys.stderr.isatty()
        self._said = -QUIET_SECONDS

    def __call__(self, told: dict[str, Any]) -> None:
        """Show what Locust's process told."""
        elapsed = told["elapsed"]
        if not self._live and elapsed - self._said < QUIET_SECONDS:
            return

        self._said = elapsed
        waiting = "" if told["waiting"] is None else f" · {told['waiting']:,} queued"
        text = (
            f"{min(elapsed, self._duration):3.0f}/{self._duration:g} s · {told['users']:,} users · "
            f"{told['rate']:,}/s done · p95 {show_span(told['p95'])}{waiting} · "
            f"{told['in_flight']:,} under way · {told['failed']:,} failed"
        )
        sys.stderr.write(f"\r\x1b[K{text}" if self._live else text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def show_report(report: Report) -> None:
    """Print it."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{report.title}[/] · {report.model} · {' · '.join(report.stack)}")
    console.print(_parts(report))
    figures = report.figures
    console.print(
        f"throughput {show_count(figures['throughput'])}/s, sent {show_count(figures['sent_rate'])}/s, "
        f"due {show_count(figures['arrival_rate'])}/s, over {report.elapsed:.1f} s"
    )
    ends = ", ".join(
        f"{title} {report.ends[name]:,}"
        for name, title in _END_TITLES.items()
        if report.ends[name] or name in {"done", "failed", "lost", "queued"}
    )
    console.print(f"runs {show_count(figures['arrivals'])}: {ends}")
    _show_backlog(report, console)
    for error, count in report.errors.items():
        console.print(f"  {count:,} x {error}", markup=False)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    for verdict in report.verdicts:
        passed = "[green]passed[/]" if verdict.passed else "[red]failed[/]"
        console.print(f"gate {verdict.gate}: {passed} ({verdict.found})")


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return values as a row of bars, each the most of its share of them."""
    if not values:
        return ""

    count = min(width, len(values))
    shares = [
        max(values[index * len(values) // count : (index + 1) * len(values) // count])
        for index in range(count)
    ]
    most = max(shares) or 1
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in shares)


def _parts(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold underline")
    table.add_column("", no_wrap=True)
    table.add_column("runs", justify="right")
    shown = [name for name in STATISTICS if name not in {"min", "p90"}]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.parts:
        table.add_row(
            PART_TITLES[row.name], f"{row.count:,}", *(show_span(row.spans[name]) for name in shown)
        )
    return table


def _show_backlog(report: Report, console: Console) -> None:
    waiting = [moment.waiting for moment in report.timeline if moment.waiting is not None]
    if waiting:
        console.print(f"backlog {sparkline(waiting)} at most {max(waiting):,}, at the end {waiting[-1]:,}")
        return
    flying = [moment.in_flight for moment in report.timeline]
    if flying:
        console.print(f"under way {sparkline(flying)} at most {max(flying):,}")
