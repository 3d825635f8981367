"""What a terminal shows of a scenario that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.columns import columns, shortened
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.expectations import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_taskservice.drivers.base import Outcome
    from pytest_taskservice.history import Event
    from pytest_taskservice.scenario.engine import Verdict
    from pytest_taskservice.scenario.expectations import Mismatch
    from pytest_taskservice.scenario.model import Scenario

__all__ = ["render_verdict"]

_SHOWN_EVENTS = 40
_SHOWN_MISMATCHES = 10
_HERE = "test"


def render_verdict(scenario: Scenario, verdict: Verdict, *, replay: str) -> str:
    """Return what was not as expected, all that happened, and the command to see it again.

    ``replay`` is that command, which plays exactly this scenario in this world.
    """
    count = len(verdict.mismatches)
    found = "as expected" if not count else f"{count} mismatch{'es' if count > 1 else ''}"
    lines = [f"{scenario.title}: {found}", ""]
    for mismatch in verdict.mismatches[:_SHOWN_MISMATCHES]:
        lines += [*_mismatch(mismatch), ""]
    if count > _SHOWN_MISMATCHES:
        lines += [f"  ... and {count - _SHOWN_MISMATCHES} more", ""]
    lines += [f"  {line}".rstrip() for line in _timeline(verdict)]
    lines += ["", f"  replay:  {replay}"]
    return "\n".join(lines)


def _mismatch(mismatch: Mismatch) -> list[str]:
    instant = "" if mismatch.at is None else f", at {mismatch.at:.3f} s"
    subject = f"{mismatch.run}: " if mismatch.run else ""
    kind = "invariant" if mismatch.invariant else "expected"
    return [
        f"  {mismatch.mark}",
        f"    {kind:<9} {subject}{mismatch.expected}",
        f"    got       {subject}{mismatch.got}{instant}",
    ]


def _timeline(verdict: Verdict) -> list[str]:
    """Return the table of events, a column for each worker."""
    events = list(verdict.log)
    if not events:
        return ["nothing happened"]

    half = _SHOWN_EVENTS // 2
    left_out = max(len(events) - _SHOWN_EVENTS, 0)
    shown = events if not left_out else events[:half] + events[-half:]
    endings = _endings(verdict)
    names = _names(verdict, events)
    cells = [
        (f"{event.at - verdict.start:.3f}", event.worker or _HERE, _told(event, names, endings))
        for event in shown
    ]
    lines = columns(cells, first="time", here=_HERE)
    if left_out:
        lines.insert(half + 1, f"... {left_out} more events ...")
    return lines


def _endings(verdict: Verdict) -> dict[str, Outcome]:
    return {
        run: outcome
        for name, runs in verdict.runs.items()
        for run, outcome in zip(runs, verdict.outcomes[name], strict=True)
    }


def _names(verdict: Verdict, events: Sequence[Event]) -> dict[str, str]:
    """Return a label for each run: its captured name, else its task, numbered."""
    names = {run: label for name in verdict.runs for label, run in labels(name, verdict.runs[name])}
    others: dict[str, list[str]] = {}
    for event in events:
        if event.run and event.run not in names and event.run not in others.setdefault(event.task, []):
            others[event.task].append(event.run)
    for task, runs in others.items():
        names |= {run: f"{task}#{number}" for number, run in enumerate(runs, start=1)}
    return names


def _told(event: Event, names: Mapping[str, str], endings: Mapping[str, Outcome]) -> str:
    if not event.run:
        return f"{event.kind}: {event.detail.get('fault', '')}"

    text = f"{names[event.run]} {event.kind}"
    if event.attempt > 1:
        text += f", attempt {event.attempt}"

    ending = endings.get(event.run)
    if ending and event.kind is EventKind.SUCCEEDED:
        text += f" ({shortened(repr(ending.result))})"
    if ending and event.kind is EventKind.FAILED and ending.error:
        text += f" ({shortened(f'{ending.error}: {ending.message}'.removesuffix(': '))})"
    return text
