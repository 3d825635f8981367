"""The state of a run as the fold of its events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.scenario.model import FINAL_STATUSES

__all__ = ["View", "told", "views"]

_STATUS = {
    EventKind.STARTED: "STARTED",
    EventKind.RETRIED: "RETRY",
    EventKind.SUCCEEDED: "SUCCESS",
    EventKind.FAILED: "FAILURE",
    EventKind.REVOKED: "REVOKED",
    EventKind.REJECTED: "REJECTED",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What could be known of a run after one of its events, ``at`` in the world's clock."""

    at: float
    status: str = "PENDING"
    attempts: int = 1
    events: tuple[str, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether the run was over."""
        return self.status in FINAL_STATUSES


def told(log: EventLog, run: str) -> list[Event]:
    """Return the events of a run in the order of their causes.

    Two processes report, and a task is sent again from within the attempt that fails. So a
    ``sent`` may be told after the ``received`` it caused, and a ``retried`` after the next attempt,
    even with its number. No cause is later than its effect.
    """
    ordered: list[Event] = []
    for event in log.of(run):
        ordered.insert(_place(event, ordered), event)
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
        view = replace(
            view,
            at=event.at,
            status=_STATUS.get(event.kind, view.status),
            attempts=max(view.attempts, event.attempt),
            events=(*view.events, str(event.kind)),
        )
        found.append(view)
    return found


def _place(event: Event, ordered: list[Event]) -> int:
    """Return where ``event``, told after all of ``ordered``, belongs among them."""
    place = len(ordered)
    if event.kind is EventKind.SENT:
        while place and _is_effect(ordered[place - 1], event):
            place -= 1
        return place

    if event.kind is not EventKind.RETRIED:
        return place

    # The nth of them ends the nth attempt, whatever number it bears.
    ended = 1 + sum(one.kind is EventKind.RETRIED for one in ordered)
    starts = [n for n, one in enumerate(ordered) if one.kind is EventKind.STARTED]
    if ended > len(starts):
        return place

    behind = range(starts[ended - 1] + 1, place)
    return next((n for n in behind if ordered[n].attempt > ended), place)


def _is_effect(event: Event, sent: Event) -> bool:
    return event.kind is not EventKind.SENT and event.attempt >= sent.attempt
