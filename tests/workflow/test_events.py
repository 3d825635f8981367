"""Readers of events against stores that tell of them badly."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from taskservice.workflow.definitions import new_run
from taskservice.workflow.events import EventReaders
from taskservice.workflow.store.base import EventPage, apply_signal
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.transitions import Claim, Succeed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskservice.workflow import WorkflowEvent, WorkflowRun
    from taskservice.workflow.store.base import EventWatcher

pytestmark = pytest.mark.anyio

NOW = 1_700_000_000.0
WAIT = 20.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class UntoldStore(MemoryStore):
    """A store that tells what it is told to tell, to the last who watches."""

    told: EventWatcher
    dropped = False

    def drop_events(self) -> None:
        self.dropped = True

    def events(self, run_id: str, *, after: int = 0, limit: int = 500) -> EventPage:
        return EventPage(events=()) if self.dropped else super().events(run_id, after=after, limit=limit)

    def watch(self, run_id: str, watcher: EventWatcher) -> Callable[[], None]:
        self.told = watcher
        return lambda: None


class Told:
    """A run that is RUNNING, and a reader that has caught up with it."""

    def __init__(self) -> None:
        self.store = UntoldStore()
        run = new_run("told", owner="", now=NOW, payload_limit=1000)
        self.store.create(run, ("status", {"status": "WAITING"}))
        self.run = apply_signal(self.store, run.id, Claim(worker="w"), now=NOW).run
        self.events = EventReaders(self.store).read(run.id, self.load, after=0)
        self._count = 0

    def load(self) -> WorkflowRun:
        found = self.store.load(self.run.id)
        assert found is not None
        return found

    def emit(self) -> Sequence[WorkflowEvent]:
        self._count += 1
        event = ((0, self._count), "word", self._count)
        self.store.emit(self.run.id, self.run.lease.token, [event], now=NOW)
        return self._last()

    def succeed(self) -> Sequence[WorkflowEvent]:
        token = self.run.lease.token
        apply_signal(self.store, self.run.id, Succeed(token=token, result=None), now=NOW)
        return self._last()

    def _last(self) -> Sequence[WorkflowEvent]:
        return self.store.events(self.run.id, after=self.load().last_event - 1).events


@pytest.fixture
async def told() -> Told:
    told = Told()
    assert [(await told.events.__anext__()).id for _ in range(2)] == [1, 2]
    async with anyio.create_task_group() as group:
        group.start_soon(told.events.next)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()  # it waits for news, and a cancelled one loses none
    return told


async def test_a_hole_in_what_is_told_is_filled_from_the_store(told: Told) -> None:
    told.emit()
    told.store.told(told.emit())

    with anyio.fail_after(WAIT):
        assert [(await told.events.__anext__()).data for _ in range(2)] == [1, 2]


async def test_a_hole_inside_of_what_is_told_at_once_is_filled_too(told: Told) -> None:
    first, _, third = told.emit(), told.emit(), told.emit()
    told.store.told([*first, *third])

    with anyio.fail_after(WAIT):
        assert [(await told.events.__anext__()).data for _ in range(3)] == [1, 2, 3]


async def test_being_told_nothing_means_to_look(told: Told) -> None:
    told.emit()
    told.store.told(())

    with anyio.fail_after(WAIT):
        assert (await told.events.__anext__()).data == 1


async def test_what_is_told_twice_comes_once(told: Told) -> None:
    first = told.emit()
    for lot in (first, first, told.emit(), first):
        told.store.told(lot)
    told.store.told(told.succeed())

    with anyio.fail_after(WAIT):
        assert [event.id async for event in told.events] == [3, 4, 5]


async def test_a_reader_that_takes_nothing_keeps_little_of_what_it_is_told(told: Told) -> None:
    for _ in range(300):
        told.store.told(told.emit())
    inbox = told.store.told.__self__  # type: ignore[attr-defined] # it is a bound method
    kept = len(inbox._lots)
    told.store.told(told.succeed())

    with anyio.fail_after(WAIT):
        assert [event.id async for event in told.events] == list(range(3, 304))
    assert kept <= 256


async def test_a_long_past_is_read_to_its_end(told: Told) -> None:
    for _ in range(1200):
        told.emit()
    late = EventReaders(told.store).read(told.run.id, told.load, after=1)

    with anyio.fail_after(WAIT):
        seen = [(await late.__anext__()).id for _ in range(1201)]

    assert seen == list(range(2, 1203))


async def test_events_that_a_server_dropped_are_told_with_a_snapshot(told: Told) -> None:
    told.succeed()
    told.store.drop_events()
    late = EventReaders(told.store).read(told.run.id, told.load, after=1)

    with anyio.fail_after(WAIT):
        seen = [(event.id, event.kind, event.data["status"]) async for event in late]

    assert seen == [(3, "snapshot", "SUCCESS")]


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_lost_or_repeated_however_badly_a_store_tells(told: Told, seed: int) -> None:
    chance = random.Random(seed)
    seen: list[int] = []

    async def read() -> None:
        async for event in told.events:
            seen.append(event.id)
            if chance.random() < 0.2:
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for _ in range(100):
                lot = told.emit()
                choice = chance.choice([(), (lot,), (lot,), (lot, lot), ((),), ((), lot)])
                for each in choice:
                    told.store.told(each)
                if chance.random() < 0.5:
                    await anyio.lowlevel.checkpoint()
            told.succeed()
            told.store.told(())

    assert seen == list(range(3, 104))
