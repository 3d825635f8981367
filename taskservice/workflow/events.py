"""Events as clients read them: what a run's store keeps, then what it tells, without a gap or a repetition.

A reader that waits costs neither a thread nor a connection of its own, and asks nothing: it hears of news
from its store, which has one connection for all runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from weakref import WeakSet

import anyio
import anyio.lowlevel
from anyio import to_thread

from taskservice.backends.loops import current_notifier
from taskservice.errors import ServiceClosedError, WorkflowExpiredError
from taskservice.workflow.model import WorkflowEvent, WorkflowStatus

if TYPE_CHECKING:
    from taskservice.workflow.model import WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore

__all__ = ["SNAPSHOT", "EventReaders", "WorkflowEvents", "next_events"]

SNAPSHOT: Final = "snapshot"
MOST_LOTS: Final = 256
"""How much a reader is told before it takes any of it; from then on it reads for itself."""
READERS: Final = 4
"""How many readers of one client ask the store at the same time."""

A = TypeVar("A")
R = TypeVar("R")
_FINAL: Final = frozenset(status.value for status in WorkflowStatus if status.final)


class WorkflowEvents:
    """The events of a run after one that was seen, as they come; `WorkflowClient.events` makes it.

    It ends after the event of a status that is final. Where events are gone that should come next, there
    comes one of kind ``snapshot`` instead, whose ``data`` has the ``status``, ``question``, ``result``,
    ``reason`` and ``error`` of the run as of the event ``last_event``; its ``id`` is that of the last
    event that is gone. Whoever stops early need not say so; `aclose` gives everything back at once.
    """

    def __init__(
        self,
        readers: EventReaders,
        run_id: str,
        load: Callable[[], WorkflowRun],
        *,
        after: int,
    ) -> None:
        self._leave: Callable[[], None] = _nothing
        self._readers = readers
        self._store = readers.store
        self._run_id = run_id
        self._load = load
        self._position = max(after, 0)
        self._ready: deque[WorkflowEvent] = deque()
        self._inbox: _Inbox | None = None
        self._behind = True
        self._over = False
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WorkflowEvent:
        found = await self.next()
        if found is None:
            raise StopAsyncIteration

        return found

    async def next(self) -> WorkflowEvent | None:
        """Return the next event, or ``None`` after the last.

        `WorkflowExpiredError` for a run that is unknown, `BackendUnavailableError` if its store cannot be
        reached now: the next call asks again.
        """
        await anyio.lowlevel.checkpoint()
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            if self._inbox is None:
                self._inbox = _Inbox()
            if self._behind:
                await self._catch_up(self._inbox)
            else:
                await self._inbox.wait()
                self._take(self._inbox)
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop watching; nothing more comes."""
        self._ready.clear()
        self._end()

    def fail(self, error: Exception) -> None:
        """Have whoever waits, or asks from now on, get ``error``."""
        self._error = error
        self._end()

    def __del__(self) -> None:
        self._leave()

    def _end(self) -> None:
        self._over = True
        leave, self._leave = self._leave, _nothing
        leave()
        if self._inbox is not None:
            self._inbox.wake()

    async def _catch_up(self, inbox: _Inbox) -> None:
        try:
            found = await self._readers.ask(self._look, inbox, limiter=self._readers.limiter)
        except WorkflowExpiredError as error:
            self.fail(error)
            raise
        if self._over:
            self._end()  # closed meanwhile, perhaps before it watched
            return

        self._accept(found.events)
        self._behind = found.more and not self._over
        if found.over:
            self._end()

    def _look(self, inbox: _Inbox) -> _Found:
        # Watched first: what is not found now will be told.
        if self._leave is _nothing:
            self._leave = self._store.watch(self._run_id, inbox.put)
        run = self._load()
        if run.last_event <= self._position:
            return _Found(over=run.status.final)

        events = next_events(self._store, run, after=self._position)
        more = events[-1].id < run.last_event
        return _Found(events=events, more=more, over=run.status.final and not more)

    def _take(self, inbox: _Inbox) -> None:
        for lot in inbox.take():
            known = [event for event in lot if event.id > self._position]
            if self._behind or not lot or (known and known[-1].id != self._position + len(known)):
                # Whatever else was told stands in the store as well.
                self._behind = True
                continue
            self._accept(known)
            if any(_ends(event) for event in lot):
                self._end()

    def _accept(self, events: Sequence[WorkflowEvent]) -> None:
        self._ready.extend(events)
        if events:
            self._position = events[-1].id
            if _ends(events[-1]):
                self._end()


class EventReaders:
    """Everybody who reads events by one client, told when that is closed."""

    def __init__(self, store: WorkflowStore) -> None:
        self.store = store
        self.limiter = anyio.CapacityLimiter(READERS)
        self._all: WeakSet[WorkflowEvents] = WeakSet()
        self._closed = False

    def read(self, run_id: str, load: Callable[[], WorkflowRun], *, after: int) -> WorkflowEvents:
        """Return the events after id ``after`` of the run that ``load`` returns."""
        reader = WorkflowEvents(self, run_id, load, after=after)
        self._all.add(reader)
        return reader

    async def ask(
        self, call: Callable[[A], R], argument: A, *, limiter: anyio.CapacityLimiter | None = None
    ) -> R:
        """Return what ``call`` does, in a thread if the store may block."""
        if self.store.local:
            return call(argument)

        try:
            return await to_thread.run_sync(call, argument, limiter=limiter)
        except Exception as error:
            if not self._closed:
                raise
            # Its connection was taken from under it.
            raise ServiceClosedError("workflow client") from error

    def close(self) -> None:
        """Have everybody who waits get a `ServiceClosedError`."""
        self._closed = True
        for reader in tuple(self._all):
            reader.fail(ServiceClosedError("workflow client"))


def next_events(store: WorkflowStore, run: WorkflowRun, *, after: int) -> tuple[WorkflowEvent, ...]:
    """Return what follows id ``after`` in ``store``, of a run that has more; a snapshot for what is gone."""
    page = store.events(run.id, after=after)
    if not page.trimmed and page.events:
        return page.events

    # No events at all, though there were some: a server short of memory dropped them.
    gone = page.events[0].id - 1 if page.events else run.last_event
    return (_snapshot(run, gone), *page.events)


class _Found:
    """What looking into the store brought; ``more`` if one should look again."""

    __slots__ = ("events", "more", "over")

    def __init__(
        self, *, events: Sequence[WorkflowEvent] = (), more: bool = False, over: bool = False
    ) -> None:
        self.events = events
        self.more = more
        self.over = over


class _Inbox:
    """What a store told, by whatever thread, until the reader's loop takes it.

    It knows nothing of its reader: one that is dropped takes its watcher back, and this goes with it.
    """

    def __init__(self) -> None:
        self._notify = current_notifier()
        self._lots: deque[Sequence[WorkflowEvent]] = deque()
        self._told = False
        self._news = anyio.Event()

    def put(self, events: Sequence[WorkflowEvent]) -> None:
        if len(self._lots) >= MOST_LOTS:
            self._lots.clear()
            events = ()
        self._lots.append(events)
        if not self._told:
            self._told = True
            self._notify(self.wake)

    def wake(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        await self._news.wait()
        self._news = anyio.Event()

    def take(self) -> list[Sequence[WorkflowEvent]]:
        # In this order, or what is put meanwhile might be told to nobody.
        self._told = False
        lots = []
        while self._lots:
            lots.append(self._pop())
        return lots

    def _pop(self) -> Sequence[WorkflowEvent]:
        try:
            return self._lots.popleft()
        except IndexError:  # cleared by another thread, which puts what says so
            return ()


def _snapshot(run: WorkflowRun, gone: int) -> WorkflowEvent:
    data: dict[str, Any] = {
        "status": run.status.value,
        "question": None if run.question is None else run.question.as_data(),
        "result": run.result,
        "reason": None if run.reason is None else run.reason.value,
        "error": run.error,
        "last_event": run.last_event,
    }
    return WorkflowEvent(id=gone, kind=SNAPSHOT, data=data, at=run.updated_at)


def _ends(event: WorkflowEvent) -> bool:
    return event.kind == "status" and event.data["status"] in _FINAL


def _nothing() -> None:
    pass
