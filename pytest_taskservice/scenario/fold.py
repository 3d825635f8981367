"""The state of a run, of a workflow run and of the workers as the fold of their events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.scenario.model import FINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ENDS",
    "WORKFLOW_EVENTS",
    "View",
    "WorkerView",
    "WorkflowView",
    "goes_back",
    "told",
    "views",
    "worker_views",
    "workflow_views",
]

_STATUS = {
    EventKind.STARTED: "STARTED",
    EventKind.RETRIED: "RETRY",
    EventKind.SUCCEEDED: "SUCCESS",
    EventKind.FAILED: "FAILURE",
    EventKind.REVOKED: "REVOKED",
    EventKind.REJECTED: "REJECTED",
}
ENDS = frozenset(_STATUS) - {EventKind.STARTED}
"""What ends an attempt."""
WORKFLOW_EVENTS = frozenset({EventKind.CHANGED, EventKind.ASKED, EventKind.TOLD})


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What could be known of a run after one of its events, ``at`` in the world's clock.

    ``deliveries`` counts how often a worker got its message, ``starts`` how often its body began.
    """

    at: float
    status: str = "PENDING"
    attempts: int = 1
    deliveries: int = 0
    starts: int = 0
    events: tuple[str, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether the run was over."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkflowView:
    """What could be known of a workflow run after one of its events.

    ``events`` holds what each said: a status, the word of an event of the function's own, ``asked``.
    ``stored_keys`` is what was found when somebody looked last; ``None`` before.
    """

    at: float
    status: str = "WAITING"
    reason: str = ""
    events: tuple[str, ...] = ()
    stored_keys: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether the run was over."""
        return self.status in {"SUCCESS", "FAILED"}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerView:
    """What the workers did after one event: how many were alive, their slots, and runs by worker."""

    at: float
    slots: tuple[tuple[str, int], ...] = ()
    running: tuple[tuple[str, int], ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether there is a worker, and no slot of any is free."""
        busy = dict(self.running)
        return bool(self.slots) and all(busy.get(name, 0) >= slots for name, slots in self.slots)


def told(log: EventLog, run: str) -> list[Event]:
    """Return the events of a run in the order of their causes.

    Two processes report, and a task is sent again from within the attempt that fails. So a
    ``sent`` may be told after the ``received`` it caused, and a ``retried`` after the next attempt,
    even with its number. No cause is later than its effect.
    """
    ordered: list[Event] = []
    starts: list[Event] = []
    retries = 0
    for event in log.of(run):
        place = len(ordered)
        if event.kind is EventKind.SENT:
            while place and _is_effect(ordered[place - 1], event):
                place -= 1
        elif event.kind is EventKind.RETRIED:
            # The nth of them ends the nth attempt, whatever number it bears.
            retries += 1
            if retries <= len(starts):
                place = _end_of(starts[retries - 1], retries, ordered)
        elif event.kind is EventKind.STARTED:
            starts.append(event)
        ordered.insert(place, event)
    for index in range(len(ordered) - 1, 0, -1):
        effect, cause = ordered[index], ordered[index - 1]
        if cause.at > effect.at:
            ordered[index - 1] = replace(cause, at=effect.at)
    return ordered


def views(events: list[Event]) -> list[View]:
    """Return the state after each of ``events``."""
    found: list[View] = []
    view = View(at=0.0)
    for event in events:
        # Neither a message nor its redelivery moves a status, least of all back.
        moves = event.kind in _STATUS and not view.is_final and not goes_back(event)
        # The message of an attempt is there before it begins, and may be withdrawn.
        begun = event.kind in _STATUS and event.kind is not EventKind.REVOKED
        view = View(
            at=event.at,
            status=_STATUS[event.kind] if moves else view.status,
            attempts=max(view.attempts, event.attempt) if begun else view.attempts,
            deliveries=view.deliveries + (event.kind is EventKind.RECEIVED),
            starts=view.starts + (event.kind is EventKind.STARTED),
            events=(*view.events, str(event.kind)),
        )
        found.append(view)
    return found


def goes_back(event: Event) -> bool:
    """Tell whether a message was rejected only to be delivered again."""
    return event.kind is EventKind.REJECTED and bool(event.detail.get("requeue"))


def workflow_views(
    events: Iterable[Event], looks: Iterable[tuple[float, int]] = (), *, began: float = 0.0
) -> list[WorkflowView]:
    """Return the state after each of a workflow run's events, and each look at its keys.

    It begins with the run as it was when it was started, at ``began``.
    """
    view = WorkflowView(at=began)
    found = [view]
    moments: list[tuple[float, Event | int]] = [
        *((event.at, event) for event in events if event.kind in WORKFLOW_EVENTS),
        *looks,
    ]
    for at, news in sorted(moments, key=lambda moment: moment[0]):
        view = replace(view, at=at, stored_keys=news) if isinstance(news, int) else _after(view, news)
        found.append(view)
    return found


def worker_views(log: Iterable[Event], *, began: float) -> list[WorkerView]:
    """Return what the workers did after each event that changed it, as of ``began`` first."""
    slots: dict[str, int] = {}
    runs: dict[str, list[str]] = {}
    found = [WorkerView(at=began)]
    for event in log:
        if not event.worker or not _changes_workers(event, slots, runs):
            continue

        view = WorkerView(
            at=max(event.at, began),
            slots=tuple(slots.items()),
            running=tuple((name, len(each)) for name, each in runs.items()),
        )
        if event.at <= began:
            # What had happened by then is how it began.
            found.clear()
        found.append(view)
    return found


def _after(view: WorkflowView, event: Event) -> WorkflowView:
    detail = event.detail
    if event.kind is EventKind.CHANGED:
        status = str(detail.get("status") or "")
        reason = str(detail.get("reason") or "")
        events = (*view.events, status)
        # Final is final; what comes after it is an invariant's to find.
        if view.is_final:
            return replace(view, at=event.at, events=events)
        return replace(view, at=event.at, status=status, reason=reason, events=events)

    asked = event.kind is EventKind.ASKED
    word = str(event.kind) if asked else str(detail.get("kind") or event.kind)
    status = "INPUT" if asked and not view.is_final else view.status
    return replace(view, at=event.at, status=status, events=(*view.events, word))


def _changes_workers(event: Event, slots: dict[str, int], runs: dict[str, list[str]]) -> bool:
    name = event.worker
    match event.kind:
        case EventKind.WORKER_UP:
            slots[name] = int(event.detail.get("slots") or 1)
            runs[name] = []
        case EventKind.WORKER_GONE:
            slots.pop(name, None)
            runs.pop(name, None)
        case EventKind.STARTED:
            runs.setdefault(name, []).append(event.run)
        case kind if kind in ENDS and event.run in runs.get(name, ()):
            runs[name].remove(event.run)
        case _:
            return False
    return True


def _end_of(start: Event, attempt: int, ordered: list[Event]) -> int:
    """Return where the end of ``attempt`` belongs, behind its ``start`` and before the next attempt."""
    place = index = len(ordered)
    # Backwards, for it is nearly always the last attempt.
    while ordered[index - 1] is not start:
        index -= 1
        if ordered[index].attempt > attempt:
            place = index
    return place


def _is_effect(event: Event, sent: Event) -> bool:
    return event.kind is not EventKind.SENT and event.attempt >= sent.attempt
