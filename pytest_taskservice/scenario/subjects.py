"""What a name of a story stands for, ready to be judged: the moments of a run, a client, the workers.

Each kind of thing knows its own matchers; ``expectations`` knows when they have to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.fold import (
    View,
    WorkerView,
    WorkflowView,
    told,
    views,
    worker_views,
    workflow_views,
)
from pytest_taskservice.scenario.model import FINAL_STATUSES
from pytest_taskservice.scenario.record import labels

if TYPE_CHECKING:
    from pytest_taskservice.scenario.record import ClientTale, Ending, FaultTale, Record, WorkflowEnding

__all__ = [
    "COUNTS",
    "WORKERS",
    "Moment",
    "Subject",
    "history_of",
    "reason_of",
    "runs_of",
    "same",
    "shown",
    "subjects",
    "workflow_history",
]

WORKERS = "workers"
"""The name that is captured by no step."""
COUNTS = frozenset({"deliveries", "starts", "struck"})
"""Matchers of things that only grow: how many there were is known when all is over."""

_REASONS = {
    "SoftTimeLimitExceeded": "soft_time_limit",
    "TimeLimitExceeded": "hard_time_limit",
    "WorkerLostError": "worker_lost",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One moment of a subject: what matches then, and what is said of it."""

    at: float
    matches: Callable[[str, Any], bool]
    says: Callable[[Mapping[str, Any]], list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One thing that expectations are about, with its moments in order; ``absent`` says why it has none."""

    label: str
    moments: tuple[Moment, ...]
    absent: str = "no event of it"
    early: str = "not sent yet"


def subjects(name: str, record: Record) -> list[Subject]:
    """Return what was captured as ``name``; nothing if the story ended before."""
    if name == WORKERS:
        return [_workers(record)]
    if name in record.workflows:
        return [_workflow(label, run, record) for label, run in labels(name, record.workflows[name])]
    if name in record.clients:
        numbered = _numbered(name, len(record.clients[name]))
        return [_client(label, tale) for label, tale in zip(numbered, record.clients[name], strict=True)]
    if name in record.faults:
        numbered = _numbered(name, len(record.faults[name]))
        return [_fault(label, tale) for label, tale in zip(numbered, record.faults[name], strict=True)]
    if name in record.commands:
        numbered = _numbered(name, len(record.commands[name]))
        return [
            _single(label, result.at, {"taken": result.taken, "error": {result.error, result.message} - {""}})
            for label, result in zip(numbered, record.commands[name], strict=True)
        ]
    return [_run(label, run, record) for label, run in labels(name, runs_of(name, record))]


def runs_of(name: str, record: Record) -> tuple[str, ...]:
    """Return the runs, or workflow runs, captured as ``name``; for an entry of the beat what it sent."""
    if name in record.workflows:
        return record.workflows[name]
    if name in record.runs or name not in record.entries:
        return record.runs.get(name, ())
    ours = set(record.accepted)
    return tuple(
        dict.fromkeys(
            event.run for event in record.log if event.detail.get("entry") == name and event.run not in ours
        )
    )


def history_of(run: str, record: Record) -> list[View]:
    """Return what could be known of a run after each of its events.

    Where nobody could tell its end, because its worker had gone or it never began, the store is believed.
    """
    history = views(told(record.log, run))
    facts = record.launched.get(run)
    if not history and facts is not None and facts.canvas:
        # Its turn has not come, and may never come.
        history = [View(at=facts.at)]
    ending = record.endings.get(run)
    if ending is None or ending.status not in FINAL_STATUSES or (history and history[-1].is_final):
        return history

    at = _untold_end(run, history, record)
    if at is None:
        return history
    last = history[-1] if history else View(at=at)
    end = View(
        at=max(at, last.at),
        status=ending.status,
        attempts=last.attempts,
        deliveries=last.deliveries,
        starts=last.starts,
        events=last.events,
    )
    return [*history, end]


def reason_of(ending: Ending) -> str:
    """Return why a run failed; empty if it did not."""
    if ending.status != "FAILURE":
        return ""
    return _REASONS.get(ending.error, "error")


def same(got: Any, wanted: Any) -> bool:
    """Compare as JSON does: a tuple is a list, a truth value is no number."""
    if isinstance(wanted, list):
        same_length = isinstance(got, list | tuple) and len(got) == len(wanted)
        return same_length and all(map(same, got, wanted))

    if isinstance(wanted, dict):
        same_keys = isinstance(got, dict) and got.keys() == wanted.keys()
        return same_keys and all(same(got[key], value) for key, value in wanted.items())
    return isinstance(got, bool) is isinstance(wanted, bool) and bool(got == wanted)


def shown(key: str, value: Any) -> str:
    """Return a value as a report has it."""
    if key == "events":
        return ", ".join(value)

    text = repr(value) if key == "result" else str(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


# Runs.


def _run(label: str, run: str, record: Record) -> Subject:
    ending = record.endings.get(run)
    return Subject(label=label, moments=tuple(_run_moment(view, ending) for view in history_of(run, record)))


def _run_moment(view: View, ending: Ending | None) -> Moment:
    def matches(key: str, wanted: Any) -> bool:
        match key:
            case "status" | "attempts" | "deliveries" | "starts":
                return bool(getattr(view, key) == wanted)
            case "events":
                return _in_order(wanted, view.events)
            case "runs":
                # Of one of them nobody asks how many there are.
                return True

        # Only a run that is over has a result or an error, and then for good.
        return ending is not None and view.is_final and _ended_so(key, wanted, ending, reason_of(ending))

    def says(wanted: Mapping[str, Any]) -> list[str]:
        facts = _how_it_ended(view.status, ending if view.is_final else None)
        if "reason" in wanted and ending and view.is_final:
            facts.append(f"reason {reason_of(ending) or 'none'}")
        if "attempts" in wanted or view.attempts > 1:
            facts.append(f"attempts {view.attempts}")
        facts += [f"{key} {getattr(view, key)}" for key in ("deliveries", "starts") if key in wanted]
        if "events" in wanted:
            facts.append(f"events {shown('events', view.events)}")
        return facts

    return Moment(at=view.at, matches=matches, says=says)


def _untold_end(run: str, history: list[View], record: Record) -> float | None:
    """Return when a run was over that no event says it of; ``None`` where somebody should have told."""
    facts = record.launched.get(run)
    if facts is not None and facts.canvas and not history[-1].events:
        others = {other for other, each in record.launched.items() if each.canvas == facts.canvas}
        return max((event.at for event in record.log if event.run in others), default=facts.at)

    started = [event for event in record.log.of(run) if event.kind is EventKind.STARTED]
    if not started:
        return None
    last = started[-1]
    gone = (
        event.at
        for event in record.log
        if event.kind is EventKind.WORKER_GONE and event.worker == last.worker and event.at >= last.at
    )
    return next(gone, None)


# Workflow runs.


def workflow_history(run: str, record: Record) -> list[WorkflowView]:
    """Return what could be known of a workflow run, from its start on."""
    began = record.started[run].at if run in record.started else record.start
    return workflow_views(record.log.of(run), record.keys.get(run, ()), began=began)


def _workflow(label: str, run: str, record: Record) -> Subject:
    ending = record.workflow_endings.get(run)
    return Subject(
        label=label,
        moments=tuple(_workflow_moment(view, ending) for view in workflow_history(run, record)),
        early="not started yet",
    )


def _workflow_moment(view: WorkflowView, ending: WorkflowEnding | None) -> Moment:
    def matches(key: str, wanted: Any) -> bool:
        match key:
            case "status" | "stored_keys":
                return bool(getattr(view, key) == wanted)
            case "reason":
                return view.status == "FAILED" and view.reason == wanted
            case "events":
                return _in_order(wanted, view.events)
            case "runs":
                return True
        return ending is not None and view.is_final and _ended_so(key, wanted, ending, view.reason)

    return Moment(at=view.at, matches=matches, says=lambda wanted: _of_workflow(view, ending, wanted))


def _of_workflow(view: WorkflowView, ending: WorkflowEnding | None, wanted: Mapping[str, Any]) -> list[str]:
    facts = _how_it_ended(view.status, ending if view.is_final else None)
    if view.reason or "reason" in wanted:
        facts.append(f"reason {view.reason or 'none'}")
    if "stored_keys" in wanted:
        facts.append(f"stored_keys {'not looked at' if view.stored_keys is None else view.stored_keys}")
    if "events" in wanted:
        facts.append(f"events {shown('events', view.events) or 'none'}")
    return facts


# Everything else.


def _client(label: str, tale: ClientTale) -> Subject:
    words: list[str] = []
    moments = [_plain(tale.at, {"events": ()})]
    for event in tale.events:
        words.append(_word(event.kind, event.data))
        moments.append(_plain(event.at, {"events": tuple(words)}))
    return Subject(label=label, moments=tuple(moments), early="not connected yet")


def _word(kind: str, data: Any) -> str:
    """Return what a client's event says, in the words of a workflow run's own events."""
    if kind == "status":
        return str(data.get("status", kind)) if isinstance(data, Mapping) else str(data)
    return "asked" if kind == "question" else kind


def _fault(label: str, tale: FaultTale) -> Subject:
    moments = [_plain(tale.at, {"struck": 0})]
    for number, at in enumerate(tale.struck_at, start=1):
        # One that strikes as it is injected does so a moment before that is noted.
        moments.append(_plain(max(at, tale.at), {"struck": number}))
    return Subject(label=label, moments=tuple(moments), early="not injected yet")


def _workers(record: Record) -> Subject:
    known = any(event.kind is EventKind.WORKER_UP for event in record.log)
    moments = [_worker_moment(view) for view in worker_views(record.log, began=record.start)] if known else []
    return Subject(label=WORKERS, moments=tuple(moments), absent="nothing is told of workers here")


def _worker_moment(view: WorkerView) -> Moment:
    running = sum(count for _, count in view.running)
    return _plain(view.at, {"all_occupied": view.is_full, "running": running, "alive": len(view.slots)})


def _single(label: str, at: float, facts: Mapping[str, Any]) -> Subject:
    return Subject(label=label, moments=(_plain(at, facts),), early="not done yet")


def _plain(at: float, facts: Mapping[str, Any]) -> Moment:
    def matches(key: str, wanted: Any) -> bool:
        got = facts.get(key)
        if key == "events":
            return _in_order(wanted, got or ())
        return bool(wanted in got) if isinstance(got, set) else same(got, wanted)

    def says(wanted: Mapping[str, Any]) -> list[str]:
        return [f"{key} {_told(key, value)}" for key, value in facts.items()]

    return Moment(at=at, matches=matches, says=says)


def _told(key: str, value: Any) -> str:
    if isinstance(value, set):
        return ": ".join(sorted(value, key=len)) or "none"
    return shown(key, value) or "none"


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}#{number}" for number in range(1, count + 1)]


def _in_order(wanted: Any, got: tuple[str, ...]) -> bool:
    left = iter(got)
    return all(event in left for event in wanted)


def _ended_so(key: str, wanted: Any, ending: Ending, reason: str) -> bool:
    match key:
        case "result":
            return ending.status == "SUCCESS" and same(ending.result, wanted)
        case "reason":
            return bool(reason == wanted)
        case "error":
            return wanted in _names_of(ending)
        # Of one thing in another's words.
        case _:
            return False


def _how_it_ended(status: str, ending: Ending | None) -> list[str]:
    facts = [f"status {status}"]
    if ending and status == ending.status == "SUCCESS":
        facts.append(f"result {shown('result', ending.result)}")
    if ending and ending.error:
        text = f": {ending.message}" if ending.message else ""
        facts.append(f"error {ending.error}{text}"[:200])
    return facts


def _names_of(ending: Ending) -> set[str]:
    """Return what a file may call an error: its class, its text, or both."""
    texts = {ending.message}
    # A KeyError's text is the repr of its key, quotes and all.
    if ending.error == "KeyError":
        texts.add(ending.message.strip("'\""))
    both = {f"{ending.error}: {text}" for text in texts}
    return ({ending.error} | texts | both) - {""}
