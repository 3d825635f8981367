"""Workflow runs in this process's memory: for tests, and services that live in one process."""

# ruff: noqa: D102 - WorkflowStore documents the contract, once

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from itertools import islice
from threading import RLock
from typing import TYPE_CHECKING, Any

from taskservice.errors import LeaseLostError, ServiceClosedError
from taskservice.workflow.model import NO_MARK, FailureReason, WorkflowStatus
from taskservice.workflow.store.base import EventPage, lifetime, tell
from taskservice.workflow.store.codec import (
    decode_entry,
    decode_event,
    decode_run,
    encode_changes,
    encode_entry,
    encode_event,
    encode_mark,
    encode_run,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskservice.workflow.model import JournalEntry, WorkflowRun
    from taskservice.workflow.store.base import EventWatcher
    from taskservice.workflow.transitions import Change

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps runs until the process ends, and those that are over until the instants say so that come in.

    Watchers are called by whoever writes, in order and under the store's lock.
    """

    def __init__(self) -> None:
        # Watchers may read what they were told of.
        self._lock = RLock()
        self._kept: dict[str, _Kept] = {}
        self._deadlines = _Schedule()
        self._ends = _Schedule()
        self._watchers: dict[str, dict[object, EventWatcher]] = {}
        self._closed = False

    @property
    def local(self) -> bool:
        return True

    def create(self, run: WorkflowRun, event: tuple[str, Any]) -> bool:
        fields, body = encode_run(run), encode_event(*event, run.created_at)
        with self._lock:
            self._forget_past(run.created_at)
            if run.id in self._kept:
                return False
            self._kept[run.id] = kept = _Kept(fields, run.deadlines.max_events)
            self._note(run, run.created_at)
            self._append(run.id, kept, [body])
            return True

    def load(self, run_id: str) -> WorkflowRun | None:
        with self._lock:
            kept = self._kept.get(run_id)
            if kept is None:
                return None
            fields = kept.fields | {"e": str(kept.last), "m": encode_mark(kept.seen)}
        return decode_run(run_id, fields)

    def journal(self, run_id: str) -> list[JournalEntry]:
        with self._lock:
            kept = self._kept.get(run_id)
            entries = [] if kept is None else sorted(kept.journal.items())
        return [decode_entry(index, packed) for index, packed in entries]

    def write(
        self, before: WorkflowRun, change: Change, *, now: float, entry: JournalEntry | None = None
    ) -> bool:
        written, removed = encode_changes(before, change.run)
        packed = None if entry is None else encode_entry(entry)
        body = None if change.event is None else encode_event(*change.event, now)
        with self._lock:
            self._forget_past(now)
            kept = self._kept.get(before.id)
            if kept is None or kept.fields["v"] != str(before.version):
                return False
            kept.fields.update(written)
            for name in removed:
                kept.fields.pop(name, None)
            if entry is not None and packed is not None:
                kept.journal[entry.index] = packed
            self._note(change.run, now)
            if body is not None:
                self._append(before.id, kept, [body])
            if change.run.reason is FailureReason.EXPIRED:
                self.forget(before.id)
            return True

    def emit(
        self,
        run_id: str,
        token: int,
        events: Sequence[tuple[tuple[int, int], str, Any]],
        *,
        now: float,
    ) -> None:
        marked = [(mark, encode_event(kind, data, now)) for mark, kind, data in events]
        with self._lock:
            self._forget_past(now)
            kept = self._kept.get(run_id)
            if kept is None or not kept.held_by(token):
                raise LeaseLostError(run_id, token)
            bodies = []
            for mark, body in marked:
                if mark > kept.seen:
                    kept.seen = mark
                    bodies.append(body)
            if bodies:
                kept.fields["u"] = repr(now)
                self._append(run_id, kept, bodies)

    def events(self, run_id: str, *, after: int = 0, limit: int = 500) -> EventPage:
        with self._lock:
            kept = self._kept.get(run_id)
            if kept is None:
                return EventPage(events=())
            first = kept.last - len(kept.events) + 1
            start = max(0, after + 1 - first)
            bodies = list(islice(kept.events, start, start + limit))
        events = tuple(decode_event(first + start + offset, body) for offset, body in enumerate(bodies))
        return EventPage(events=events, trimmed=bool(events) and events[0].id > max(after, 0) + 1)

    def watch(self, run_id: str, watcher: EventWatcher) -> Callable[[], None]:
        mine = object()
        with self._lock:
            if self._closed:
                raise ServiceClosedError("workflow store")
            self._watchers.setdefault(run_id, {})[mine] = watcher

        def leave() -> None:
            with self._lock:
                watchers = self._watchers.get(run_id, {})
                watchers.pop(mine, None)
                if not watchers:
                    self._watchers.pop(run_id, None)

        return leave

    def due(self, now: float, *, limit: int = 100) -> list[str]:
        with self._lock:
            self._forget_past(now)
            return self._deadlines.until(now, limit)

    def next_due(self) -> float | None:
        """Return the first instant that is of any matter: a deadline, or the end of a run's data."""
        with self._lock:
            firsts = (self._deadlines.first(), self._ends.first())
        return min((instant for instant in firsts if instant is not None), default=None)

    def forget(self, run_id: str) -> bool:
        with self._lock:
            self._deadlines.put(run_id, None)
            self._ends.put(run_id, None)
            return self._kept.pop(run_id, None) is not None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._watchers.clear()

    def _note(self, run: WorkflowRun, now: float) -> None:
        self._deadlines.put(run.id, run.deadline)
        # Whoever is not over will be, however late somebody sweeps.
        ends = run.status.final or run.deadlines.data is not None
        self._ends.put(run.id, now + lifetime(run, now) if ends else None)

    def _append(self, run_id: str, kept: _Kept, bodies: list[str]) -> None:
        events = []
        for body in bodies:
            kept.last += 1
            kept.events.append(body)
            events.append(decode_event(kept.last, body))
        for watcher in tuple(self._watchers.get(run_id, {}).values()):
            tell(watcher, events)

    def _forget_past(self, now: float) -> None:
        for run_id in self._ends.until(now, len(self._kept)):
            self.forget(run_id)


class _Kept:
    """A run as it is stored, and what the store itself counts of it."""

    __slots__ = ("events", "fields", "journal", "last", "seen")

    def __init__(self, fields: dict[str, str], max_events: int) -> None:
        self.fields = fields
        self.journal: dict[int, str] = {}
        self.events: deque[str] = deque(maxlen=max_events)
        self.last = 0
        self.seen = NO_MARK

    def held_by(self, token: int) -> bool:
        return self.fields["s"] == WorkflowStatus.RUNNING.value and self.fields.get("k") == str(token)


class _Schedule:
    """Ids by instant, the earliest first and those of one instant by name."""

    def __init__(self) -> None:
        self._instants: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []

    def put(self, name: str, instant: float | None) -> None:
        old = self._instants.pop(name, None)
        if old is not None:
            del self._order[bisect_left(self._order, (old, name))]
        if instant is not None:
            self._instants[name] = instant
            insort(self._order, (instant, name))

    def first(self) -> float | None:
        return self._order[0][0] if self._order else None

    def until(self, instant: float, limit: int) -> list[str]:
        found = []
        for at, name in self._order[:limit]:
            if at > instant:
                break
            found.append(name)
        return found
