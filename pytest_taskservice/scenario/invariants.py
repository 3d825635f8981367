"""What holds in every scenario, whether its file asks for it or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.expectations import Ending, Mismatch, Record, labels
from pytest_taskservice.scenario.fold import View, told, views
from pytest_taskservice.scenario.model import FINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pytest_taskservice.scenario.acts import Mark

__all__ = ["ONE_FINAL_STATE", "check_invariants"]

ONE_FINAL_STATE = "every accepted run reaches exactly one final state"
NOTHING_UNSENT = "nothing appears that was not sent"
FINAL_IS_FINAL = "final is final"
STATE_MACHINE = "statuses only move along the state machine"
ONE_TRUTH = "the stored state is the fold of the events"

# A failure without a start: the message names no task the worker knows, or cannot be read.
_MOVES = {
    "PENDING": {"PENDING", "STARTED", "FAILURE", "REVOKED", "REJECTED"},
    "STARTED": {"STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED"},
    "RETRY": {"RETRY", "STARTED", "FAILURE", "REVOKED", "REJECTED"},
}
_Finding = tuple[str, str, View]


def check_invariants(record: Record, *, mark: Mark) -> list[Mismatch]:
    """Return every broken invariant, at ``mark``."""
    names = {run: label for name, runs in record.runs.items() for label, run in labels(name, runs)}
    found: list[Mismatch] = []
    # A fault is an event of no run.
    known = dict.fromkeys([*record.accepted, *(event.run for event in record.log if event.run)])
    for run in known:
        events = told(record.log, run)
        label = names.get(run) or (f"{events[0].task} ({run})" if events else run)
        for invariant, got, view in _broken(events, record.endings.get(run), known):
            found.append(
                Mismatch(
                    mark=mark,
                    expected=invariant,
                    got=got,
                    run=label,
                    at=max(view.at - record.start, 0.0) if view.events else None,
                    invariant=invariant,
                )
            )
    return found


def _broken(events: list[Event], ending: Ending | None, known: Collection[str]) -> Iterator[_Finding]:
    history = views(events)
    last = history[-1] if history else View(at=0.0)
    # Nobody tells when a worker sends, but its message names the run that did.
    by_a_run = bool(events) and events[0].detail.get("parent_id") in known
    if not by_a_run and not any(event.kind is EventKind.SENT for event in events):
        first = f"began with {events[0].kind}" if events else "left no event"
        yield NOTHING_UNSENT if events else ONE_FINAL_STATE, first, last

    yield from _moves(events, history)
    if events and not any(view.is_final for view in history):
        yield ONE_FINAL_STATE, f"status {last.status} at the end", last
    if ending is not None and (message := _disagreement(last, ending)):
        yield ONE_TRUTH, message, last


def _moves(events: list[Event], history: list[View]) -> Iterator[_Finding]:
    before = View(at=0.0)
    for event, view in zip(events, history, strict=True):
        if before.is_final:
            # A message that was withdrawn is still delivered, and then dropped.
            if before.status != "REVOKED" or event.kind not in (
                EventKind.RECEIVED,
                EventKind.REVOKED,
            ):
                yield FINAL_IS_FINAL, f"{event.kind} after {before.status}", view
                return

        elif view.status not in _MOVES[before.status] or _repeats(event, before):
            move = f"{event.kind} (attempt {event.attempt}) in {before.status}"
            yield STATE_MACHINE, f"{move} (attempt {before.attempts})", view
            return
        before = view


def _repeats(event: Event, before: View) -> bool:
    """Tell whether an attempt begins, or ends in a retry, out of turn."""
    if event.kind is EventKind.RETRIED:
        return before.status == "RETRY"

    if event.kind is not EventKind.STARTED:
        return False

    # The same attempt may start again: its message was delivered again.
    turns = {before.attempts, before.attempts + 1} if before.status == "RETRY" else {before.attempts}
    return event.attempt not in turns


def _disagreement(last: View, ending: Ending) -> str:
    """Return how the result backend and the log differ about the end."""
    # Celery stores nothing about a message that was rejected.
    if last.status in {ending.status, "REJECTED"}:
        return ""

    if ending.status not in FINAL_STATUSES and not last.is_final:
        return ""
    error = f" ({ending.error}: {ending.message})"[:200] if ending.error else ""
    return f"stored {ending.status}{error}, while the events say {last.status}"
