"""Runs in a workflow store, as its contract begins them, and a client that reads on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

from taskservice.workflow.model import (
    Deadlines,
    EntryKind,
    JournalEntry,
    Question,
    WorkflowEvent,
    WorkflowRun,
)
from taskservice.workflow.store.base import WorkflowStore, apply_signal
from taskservice.workflow.transitions import Ask, Claim

WAIT = 15.0
NOW = 1_700_000_000.25
STARTED = ("status", {"status": "WAITING"})
QUESTION = Question(id="q1", prompt="approve?", schema={"type": "boolean"}, data={"amount": 12})


def start(store: WorkflowStore, *, deadlines: Deadlines | None = None, now: float = NOW) -> str:
    limits = deadlines or Deadlines()
    run = WorkflowRun(
        id=str(uuid4()),
        workflow="refund",
        owner="alice",
        args=["order-17"],
        kwargs={},
        created_at=now,
        updated_at=now,
        deadline=now + limits.busy,
        deadlines=limits,
    )
    assert store.create(run, STARTED)
    return run.id


def claim(store: WorkflowStore, run_id: str, now: float = NOW) -> int:
    return apply_signal(store, run_id, Claim(worker="w1"), now=now).run.lease.token


def ask(store: WorkflowStore, run_id: str, now: float = NOW) -> None:
    signal = Ask(token=claim(store, run_id, now), steps=1, question=QUESTION)
    apply_signal(store, run_id, signal, now=now, entry=entry(0, EntryKind.ASK, None))


def entry(index: int, kind: EntryKind, value: object) -> JournalEntry:
    return JournalEntry(index=index, kind=kind, name="approve?", value=value)


def load(store: WorkflowStore, run_id: str) -> WorkflowRun:
    run = store.load(run_id)
    assert run is not None
    return run


def ids(events: Sequence[WorkflowEvent]) -> list[int]:
    return [event.id for event in events]


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Reader:
    """A client as it should be: it reads for itself when told to, and when it sees a hole."""

    def __init__(self, store: WorkflowStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._news = threading.Condition()
        self.calls: list[Sequence[WorkflowEvent]] = []
        self.ids: list[int] = []
        self.leave = store.watch(run_id, self._told)
        self._read()

    def _told(self, events: Sequence[WorkflowEvent]) -> None:
        with self._news:
            self.calls.append(events)
            self._news.notify()

    def _read(self) -> None:
        while page := self._store.events(self._run_id, after=len(self.ids)).events:
            self.ids += ids(page)

    def _take(self, events: Sequence[WorkflowEvent]) -> None:
        new = [number for number in ids(events) if number > len(self.ids)]
        if new and new[0] == len(self.ids) + 1:
            self.ids += new
        elif new or not events:
            self._read()

    def follow(self, last: int) -> list[int]:
        """Return the ids of all events once ``last`` is among them."""
        while len(self.ids) < last:
            with self._news:
                assert self._news.wait_for(lambda: self.calls, WAIT), f"only {len(self.ids)} of {last} came"
                calls, self.calls = self.calls, []
            for events in calls:
                self._take(events)
        return self.ids

    def wait_for_call(self) -> Sequence[WorkflowEvent]:
        with self._news:
            assert self._news.wait_for(lambda: self.calls, WAIT), "nobody told"
            return self.calls.pop(0)
