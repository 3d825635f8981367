"""The invariant of timers: a countdown, a back-off, a deadline is never over too early."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.fold import told
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.model import Config, Workflow
    from pytest_taskservice.scenario.record import Launched, Record

__all__ = ["timer_findings"]

# Two processes tell of one run, and an eta is rounded to a microsecond.
_ROUNDING = 0.02
_Finding = tuple[str, str, str, float | None]


def timer_findings(record: Record) -> Iterator[_Finding]:
    """Yield what began or ended before its time: the run, ``timers``, what was found, when."""
    for run, facts in record.launched.items():
        events = told(record.log, run)
        yield from _early_start(run, facts, events)
        yield from _early_retry(run, facts, events)
    for run, started in record.started.items():
        if record.config is not None:
            yield from _early_deadline(run, record.log.of(run), started.at, started.workflow, record.config)


def _early_start(run: str, facts: Launched, events: list[Event]) -> Iterator[_Finding]:
    first = next((event for event in events if event.kind is EventKind.STARTED), None)
    if first is None or not facts.countdown:
        return

    waited = first.at - facts.at
    if waited < facts.countdown - _ROUNDING:
        wanted = format_duration(facts.countdown)
        yield (
            run,
            "timers",
            f"started {waited:.3f} s after its launch, with a countdown of {wanted}",
            first.at,
        )


def _early_retry(run: str, facts: Launched, events: list[Event]) -> Iterator[_Finding]:
    if facts.behaviour is None:
        return

    starts: dict[int, float] = {}
    cut_short = _cut_short(events)
    for event in events:
        if event.kind is not EventKind.STARTED:
            continue

        before = starts.get(event.attempt - 1)
        delay = facts.behaviour.retry_delay(event.attempt - 1) if event.attempt > 1 else None
        starts.setdefault(event.attempt, event.at)
        if before is None or delay is None or event.attempt - 1 in cut_short:
            continue

        # Counted from the body's own end: that it is to be retried is told later than it is decided.
        waited = event.at - before - facts.behaviour.runs_for
        if waited < delay - _ROUNDING:
            wanted = format_duration(delay)
            got = f"attempt {event.attempt} began {max(waited, 0.0):.3f} s after the one before, not {wanted}"
            yield run, "timers", got, event.at


def _cut_short(events: list[Event]) -> set[int]:
    """Return the attempts that were begun twice: nobody knows which of the bodies asked for a retry."""
    starts = Counter(event.attempt for event in events if event.kind is EventKind.STARTED)
    return {attempt for attempt, count in starts.items() if count > 1}


def _early_deadline(
    run: str, events: list[Event], began: float, workflow: Workflow, config: Config
) -> Iterator[_Finding]:
    asked, news = began, began
    for event in events:
        if event.kind is EventKind.ASKED:
            asked = event.at
        reason = event.detail.get("reason") if event.kind is EventKind.CHANGED else None
        bound, since = {
            "busy": (config.busy_after, news),
            "stale": (config.stale_after, news),
            "input_timeout": (_shortest_ask(workflow, config), asked),
        }.get(str(reason), (None, news))
        waited = event.at - since
        if bound is not None and waited < bound - _ROUNDING:
            got = f"{reason} after {waited:.3f} s, the deadline is {format_duration(bound)}"
            yield run, "timers", got, event.at
        news = event.at


def _shortest_ask(workflow: Workflow, config: Config) -> float | None:
    """Return the least time that any of its questions is open; ``None`` where nobody knows."""
    if workflow.call is not None:
        return None
    spans = [step.seconds or config.input_timeout for step in workflow.steps if step.kind == "ask"]
    return min((span for span in spans if span is not None), default=None)
