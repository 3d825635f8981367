"""Turns: runs that never wait share a task, and none of them notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from taskservice.backends.groups import open_group
from taskservice.backends.turns import Turn, Turns

pytestmark = pytest.mark.anyio

Run = Callable[[], Coroutine[Any, Any, None]]
whose: ContextVar[str] = ContextVar("whose", default="nobody's")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def take(*runs: Run) -> None:
    """Give each run a turn, and wait for all of them."""
    group = await open_group()
    turns = Turns(group)
    for run in runs:
        turns.add(Turn(run))
    await group.join()


def noting(ended: list[str], name: str, *, wait: bool = False) -> Run:
    async def run() -> None:
        if wait:
            await anyio.lowlevel.checkpoint()
        ended.append(name)

    return run


async def test_runs_begin_in_the_order_in_which_they_were_added() -> None:
    ended: list[str] = []

    await take(*(noting(ended, str(number)) for number in range(250)))

    assert ended == [str(number) for number in range(250)]


async def test_one_that_waits_holds_nobody_up() -> None:
    ended: list[str] = []
    done = anyio.Event()

    async def wait() -> None:
        await done.wait()
        ended.append("first")

    async def finish() -> None:
        ended.append("last")
        done.set()

    await take(wait, noting(ended, "second"), noting(ended, "third", wait=True), finish)

    assert sorted(ended) == ["first", "last", "second", "third"]


@pytest.mark.parametrize("wait", [False, True])
async def test_each_run_has_the_context_of_its_adding_to_itself(wait: bool) -> None:
    seen: list[tuple[str, str]] = []

    async def run() -> None:
        before = whose.get()
        whose.set("a run's")
        if wait:
            await anyio.lowlevel.checkpoint()
        seen.append((before, whose.get()))

    group = await open_group()
    turns = Turns(group)
    for name in ("one", "two", "three"):
        token = whose.set(name)
        turns.add(Turn(run))
        whose.reset(token)
    await group.join()

    assert sorted(seen) == [("one", "a run's"), ("three", "a run's"), ("two", "a run's")]
    assert whose.get() == "nobody's"


async def test_one_run_is_cancelled_and_its_neighbours_go_on() -> None:
    ended: list[str] = []
    group = await open_group()
    turns = Turns(group)
    done = anyio.Event()
    reached = anyio.Semaphore(0)

    def waiting(name: str, until: anyio.Event) -> Turn:
        async def run() -> None:
            reached.release()
            await until.wait()
            ended.append(name)

        return Turn(run)

    first, second = waiting("first", anyio.Event()), waiting("second", anyio.Event())
    for turn in (first, second, waiting("neighbour", done)):
        turns.add(turn)
    for _ in range(3):
        await reached.acquire()
    first.cancel()
    second.cancel()
    done.set()
    await group.join()

    assert ended == ["neighbour"]


async def test_a_run_that_shields_itself_is_waited_for() -> None:
    ended: list[str] = []
    group = await open_group()
    started = anyio.Event()

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            started.set()
            await anyio.lowlevel.checkpoint()
            ended.append("shielded")
        await anyio.sleep_forever()

    turn = Turn(run)
    Turns(group).add(turn)
    await started.wait()
    turn.cancel()
    await group.join()

    assert ended == ["shielded"]


async def test_a_run_that_cancels_itself_and_ends_takes_nobody_with_it() -> None:
    ended: list[str] = []
    group = await open_group()
    turns = Turns(group)

    async def cancel_oneself() -> None:
        itself.cancel()
        ended.append("itself")

    itself = Turn(cancel_oneself)
    turns.add(itself)
    turns.add(Turn(noting(ended, "next", wait=True)))
    await group.join()

    assert ended == ["itself", "next"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_neither_does_one_that_cancels_its_asyncio_task(anyio_backend: str) -> None:
    ended: list[str] = []

    async def cancel_oneself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        ended.append("itself")

    await take(cancel_oneself, noting(ended, "next", wait=True))

    assert ended == ["itself", "next"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_that_raises_a_cancellation_ends_alone(anyio_backend: str) -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise asyncio.CancelledError

    await take(fail, noting(ended, "next"), noting(ended, "last", wait=True))

    assert ended == ["next", "last"]
