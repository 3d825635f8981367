"""What holds in every scenario, whether its file asks for it or not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.behaviour import SYNTHETIC
from pytest_taskservice.scenario.fold import View, goes_back, told
from pytest_taskservice.scenario.model import FINAL_STATUSES, INVARIANTS
from pytest_taskservice.scenario.record import Ending, Mismatch, Record, labels
from pytest_taskservice.scenario.slots import slot_findings
from pytest_taskservice.scenario.subjects import history_of, runs_of
from pytest_taskservice.scenario.timers import timer_findings
from pytest_taskservice.scenario.workflow_rules import workflow_findings

if TYPE_CHECKING:
    from pytest_taskservice.scenario.acts import Mark

__all__ = [
    "FINAL_IS_FINAL",
    "NOTHING_UNSENT",
    "ONE_FINAL_STATE",
    "ONE_TRUTH",
    "STATE_MACHINE",
    "check_invariants",
]

ONE_FINAL_STATE = INVARIANTS["one_final_state"]
NOTHING_UNSENT = INVARIANTS["nothing_unsent"]
FINAL_IS_FINAL = INVARIANTS["final_is_final"]
STATE_MACHINE = INVARIANTS["state_machine"]
ONE_TRUTH = INVARIANTS["one_truth"]

# A failure without a start: the message names no task the worker knows, or cannot be read.
_MOVES = {
    "PENDING": {"PENDING", "STARTED", "FAILURE", "REVOKED", "REJECTED"},
    "STARTED": {"STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED"},
    "RETRY": {"RETRY", "STARTED", "FAILURE", "REVOKED", "REJECTED"},
}
_ENDINGS = {
    EventKind.SUCCEEDED: "SUCCESS",
    EventKind.FAILED: "FAILURE",
    EventKind.REVOKED: "REVOKED",
    EventKind.REJECTED: "REJECTED",
}
_RESULT_KEPT = 86_400.0
"""How long Celery keeps a result, unless told."""
_TOLD_AFTER = 1.0
"""Seconds by which an end may be told later than its result is written."""
_Finding = tuple[str, str, float | None]


def check_invariants(
    record: Record, *, mark: Mark, unchecked: Collection[str] = frozenset()
) -> list[Mismatch]:
    """Return every broken invariant, at ``mark``; those whose names are ``unchecked`` are not looked at."""
    names = _names(record)
    off = {INVARIANTS[name] for name in unchecked}
    found: list[Mismatch] = []
    for run, (invariant, got, at) in _findings(record, names):
        if invariant not in off:
            found.append(
                Mismatch(
                    mark=mark,
                    expected=invariant,
                    got=got,
                    run=names.get(run, run),
                    at=None if at is None else max(at - record.start, 0.0),
                    invariant=invariant,
                )
            )
    return found


def _findings(record: Record, names: dict[str, str]) -> Iterator[tuple[str, _Finding]]:
    workflow_runs = {run for runs in record.workflows.values() for run in runs} | record.started.keys()
    # A fault is an event of no run.
    known = dict.fromkeys([*record.accepted, *(event.run for event in record.log if event.run)])
    sent = {run for name in record.entries for run in runs_of(name, record)} | _of_canvases(record)
    for run in known:
        if run in workflow_runs:
            continue

        events = told(record.log, run)
        names.setdefault(run, f"{events[0].task} ({run})" if events else run)
        for finding in _broken(run, events, record, known, sent):
            yield run, finding
    for subject, invariant, got, at in (
        *slot_findings(record),
        *timer_findings(record),
        *workflow_findings(record),
    ):
        yield subject, (INVARIANTS[invariant], got, at)


def _names(record: Record) -> dict[str, str]:
    captured = {name: runs_of(name, record) for name in record.entries} | dict(record.runs)
    captured |= dict(record.workflows)
    return {run: label for name, runs in captured.items() for label, run in labels(name, runs)}


def _of_canvases(record: Record) -> set[str]:
    """Return the runs that others send when their turn comes."""
    return {run for run, facts in record.launched.items() if facts.canvas}


def _broken(
    run: str, events: list[Event], record: Record, known: Collection[str], sent: set[str]
) -> Iterator[_Finding]:
    if events and _is_internal(events[0].task):
        # The messages of workflow runs: those are judged instead, and these come as often as they like.
        return

    history = history_of(run, record)
    last = history[-1] if history else View(at=0.0)
    end = last.at if history else None
    # Nobody tells when a worker sends, but its message names the run that did.
    by_a_run = bool(events) and any(event.detail.get("parent_id") in known for event in events[:2])
    begun = run in sent or by_a_run or any(event.kind is EventKind.SENT for event in events)
    if not begun:
        first = f"began with {events[0].kind}" if events else "left no event"
        yield NOTHING_UNSENT if events else ONE_FINAL_STATE, first, end

    yield from _moves(events)
    ending = record.endings.get(run)
    if (events or run in sent) and not last.is_final and not _was_left_out(run, events, record):
        yield ONE_FINAL_STATE, f"status {last.status} at the end", end
    if len(ends := _distinct_ends(events)) > 1:
        yield ONE_FINAL_STATE, f"ended as {' and as '.join(ends)}", end
    message = "" if ending is None or _has_expired(last, ending, record) else _disagreement(last, ending)
    if message:
        yield ONE_TRUTH, message, end


def _is_internal(task: str) -> bool:
    return task.startswith(("taskservice.", "celery.")) and task != SYNTHETIC


def _was_left_out(run: str, events: list[Event], record: Record) -> bool:
    """Tell whether a run of a canvas never had its turn, because another one failed."""
    facts = record.launched.get(run)
    if events or facts is None or not facts.canvas:
        return False

    others = (other for other, each in record.launched.items() if each.canvas == facts.canvas)
    endings = (record.endings.get(other) for other in others)
    return any(ending is not None and ending.status in FINAL_STATUSES - {"SUCCESS"} for ending in endings)


def _moves(events: list[Event]) -> Iterator[_Finding]:
    # The message of a later attempt may be told of before an earlier one begins: two processes tell.
    status, begun, told = "PENDING", 1, 1
    end: Event | None = None
    for event in events:
        if end is not None:
            # A delivery is counted; one more start is a second execution.
            if event.kind is not EventKind.RECEIVED and not _is_told_twice(event, end):
                yield FINAL_IS_FINAL, f"{event.kind} after {status}", event.at
                return
            continue

        after = _next(status, event)
        if after not in _MOVES[status] or _repeats(event, status, begun, told):
            move = f"{event.kind} (attempt {event.attempt}) in {status}"
            yield STATE_MACHINE, f"{move} (attempt {begun})", event.at
            return
        status, told = after, max(told, event.attempt)
        begun = event.attempt if event.kind is EventKind.STARTED else begun
        end = event if status in FINAL_STATUSES else None


def _is_told_twice(event: Event, end: Event) -> bool:
    """Tell whether Celery told of one end again: of what was revoked, of what hit its hard time limit."""
    if event.kind is not end.kind:
        return False
    if event.kind is EventKind.REVOKED:
        return True
    return event.kind is EventKind.FAILED and (event.worker, event.attempt) == (end.worker, end.attempt)


def _next(status: str, event: Event) -> str:
    if event.kind is EventKind.STARTED:
        return "STARTED"
    if event.kind is EventKind.RETRIED:
        return "RETRY"
    return status if goes_back(event) else _ENDINGS.get(event.kind, status)


def _repeats(event: Event, status: str, begun: int, told: int) -> bool:
    """Tell whether an attempt begins, or ends in a retry, out of turn."""
    if event.kind is EventKind.RETRIED:
        return status == "RETRY"

    if event.kind is not EventKind.STARTED:
        return False

    # The same attempt may start again: its message was delivered again.
    last = max(told, begun + 1) if status == "RETRY" else told
    return not begun <= event.attempt <= last


def _distinct_ends(events: list[Event]) -> list[str]:
    return list(
        dict.fromkeys(
            _ENDINGS[event.kind] for event in events if event.kind in _ENDINGS and not goes_back(event)
        )
    )


def _has_expired(last: View, ending: Ending, record: Record) -> bool:
    """Tell whether a result is no longer kept."""
    settings = record.config.celery if record.config is not None else {}
    kept = settings.get("result_expires", _RESULT_KEPT)
    # Celery counts in whole seconds, and keeps for ever what it would keep for none.
    seconds = int(kept or 0)
    age = max(record.end, record.looked) - last.at + _TOLD_AFTER
    return ending.status == "PENDING" and 0 < seconds <= age


def _disagreement(last: View, ending: Ending) -> str:
    """Return how the result backend and the log differ about the end."""
    # Celery stores nothing about a message that was rejected.
    if last.status in {ending.status, "REJECTED"}:
        return ""

    if ending.status not in FINAL_STATUSES and not last.is_final:
        return ""
    error = f" ({ending.error}: {ending.message})"[:200] if ending.error else ""
    return f"stored {ending.status}{error}, while the events say {last.status}"
