"""What happened, in order: the one record every driver fills and every check reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from taskservice.texts import text_of

__all__ = ["ENTRY_HEADER", "Event", "EventKind", "EventLog", "brief"]

ENTRY_HEADER = "taskservice_entry"
"""The header of a message by which whoever tells of its being sent knows the entry of the beat."""


_LONGEST = 500


def brief(value: object) -> Any:
    """Return what a ``detail`` tells of a value: a number as it is, else its text, cut where it is long."""
    return value if isinstance(value, (int, float, bool)) else text_of(value)[:_LONGEST]


class EventKind(StrEnum):
    """What can happen, most of it to a run."""

    SENT = "sent"
    """``detail`` has ``entry``, a name, where the beat of a story has sent it."""
    RECEIVED = "received"
    STARTED = "started"
    RETRIED = "retried"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    REJECTED = "rejected"
    FAULT = "fault"
    """Something was broken on purpose; of no run, ``detail`` says what."""
    HEALED = "healed"
    """That is over."""
    CHANGED = "changed"
    """A workflow run has another status; ``detail`` has ``status``, ``reason``, ``id`` of the event."""
    ASKED = "asked"
    """A workflow run asks its user something; ``detail`` has ``question``, ``prompt``, ``id``."""
    TOLD = "told"
    """A workflow run told its clients something of its own; ``detail`` has ``kind``, ``data``, ``id``."""
    WORKER_UP = "worker up"
    """A worker consumes; of no run. ``detail`` has ``slots`` and ``queues``."""
    WORKER_GONE = "worker gone"
    """A worker is no more; of no run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened to one run.

    ``at`` is in seconds of the world's own clock since the Unix epoch; ``attempt`` counts from 1;
    ``worker`` is empty where the event happened in the process that launched the run.
    """

    at: float
    kind: EventKind
    run: str
    task: str
    attempt: int = 1
    worker: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


class EventLog:
    """An append-only list of events, ordered by time; ties keep the order of arrival."""

    def __init__(self, events: Iterator[Event] | None = None) -> None:
        self._events: list[Event] = sorted(events or (), key=_instant)
        # Made when somebody asks for a run: a verdict asks for each of thousands.
        self._by_run: dict[str, list[Event]] | None = None

    def append(self, event: Event) -> None:
        """Add ``event`` behind all that happened no later than it."""
        self._events.append(event)
        # Two processes report: an event may arrive after a later one of the other process.
        if len(self._events) > 1 and event.at < self._events[-2].at:
            self._events.sort(key=_instant)
            self._by_run = None
        elif self._by_run is not None:
            self._by_run.setdefault(event.run, []).append(event)

    def of(self, run: str) -> list[Event]:
        """Return the events of one run, in order."""
        if self._by_run is None:
            self._by_run = {}
            for event in self._events:
                self._by_run.setdefault(event.run, []).append(event)
        return list(self._by_run.get(run, ()))

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)


def _instant(event: Event) -> float:
    return event.at
