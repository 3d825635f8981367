"""Limits of ``async`` functions, on both event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from taskservice import SoftTimeLimitError, TimeLimitError
from taskservice.backends.limits import Limits, call_and_abandon, call_limited

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

WAIT = 10.0
SOFT = Limits(soft=0.02)
BOTH = Limits(soft=0.02, hard=0.1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def hang_in_scope() -> None:
    with anyio.fail_after(WAIT):
        await anyio.sleep_forever()


async def hang_on_event() -> None:
    await anyio.Event().wait()


async def hang_on_lock() -> None:
    lock = anyio.Semaphore(0)
    async with lock:
        raise AssertionError("nobody released it")


async def spin() -> None:
    while True:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("hang", [anyio.sleep_forever, hang_in_scope, hang_on_event, hang_on_lock])
async def test_a_soft_limit_reaches_whatever_is_awaited(hang: Callable[[], Any]) -> None:
    with anyio.fail_after(WAIT), pytest.raises(SoftTimeLimitError) as caught:
        await call_limited(hang, SOFT)

    assert type(caught.value) is SoftTimeLimitError
    assert caught.value.seconds == 0.02


async def test_a_hard_limit_reaches_who_only_passes_checkpoints() -> None:
    with anyio.fail_after(WAIT), pytest.raises(TimeLimitError):
        await call_limited(spin, BOTH if _asyncio_task() is None else Limits(hard=0.1))


async def test_what_follows_a_caught_soft_limit_runs_undisturbed() -> None:
    async def tidy() -> str:
        try:
            await anyio.sleep_forever()
        except SoftTimeLimitError:
            for _ in range(3):
                await anyio.sleep(0.01)
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0.01)
        return "tidied"

    assert await call_limited(tidy, SOFT) == "tidied"


async def test_children_end_before_a_soft_limit_leaves_their_group() -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("child")

    async def parent() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
        finally:
            ended.append("parent")

    with anyio.fail_after(WAIT):
        try:
            await call_limited(parent, SOFT)
        except* SoftTimeLimitError:
            ended.append("caught")

    assert ended == ["child", "parent", "caught"]


async def test_the_hard_limit_ends_who_ignores_the_soft_one() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await anyio.sleep_forever()
            except SoftTimeLimitError:
                continue

    with anyio.fail_after(WAIT), pytest.raises(TimeLimitError) as caught:
        await call_limited(stubborn, BOTH)

    assert caught.value.seconds == 0.1


async def test_a_cancellation_from_outside_stays_one() -> None:
    with anyio.move_on_after(0.01) as scope:
        await call_limited(anyio.sleep_forever, Limits(soft=WAIT, hard=2 * WAIT))

    assert scope.cancelled_caught


async def test_a_cancellation_at_the_same_moment_goes_first() -> None:
    with anyio.CancelScope() as scope:

        async def cancel_then_wait() -> None:
            scope.cancel()
            await anyio.sleep_forever()

        await call_limited(cancel_then_wait, Limits(soft=1e-9))

    assert scope.cancelled_caught


async def test_nothing_is_left_behind_in_the_task() -> None:
    async def quick() -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    assert await call_limited(quick, BOTH) == 1
    with pytest.raises(SoftTimeLimitError):
        await call_limited(anyio.sleep_forever, SOFT)

    await anyio.sleep(0.05)  # past every limit: nothing may come any more
    if (task := _asyncio_task()) is not None:
        assert task.cancelling() == 0


async def test_an_error_of_the_function_comes_out_as_it_is() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await call_limited(fail, BOTH)


async def test_a_soft_limit_waits_for_a_thread_that_cannot_be_left_on_trio(anyio_backend: str) -> None:
    gate = threading.Event()

    async def in_thread() -> None:
        await to_thread.run_sync(gate.wait, WAIT)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        if anyio_backend == "trio":
            group.start_soon(_set_later, gate)
        with anyio.fail_after(WAIT), pytest.raises(SoftTimeLimitError):
            await call_limited(in_thread, SOFT)
        gate.set()


def test_a_plain_call_is_left_to_itself_at_its_limit() -> None:
    gate = threading.Event()

    with pytest.raises(TimeLimitError):
        call_and_abandon(lambda: gate.wait(WAIT), 0.02)
    gate.set()


def test_a_plain_call_gives_its_value_or_its_error() -> None:
    assert call_and_abandon(lambda: 7, WAIT) == 7
    with pytest.raises(KeyError, match="mine"):
        call_and_abandon(lambda: {"yours": 1}["mine"], WAIT)


async def _set_later(gate: threading.Event) -> None:
    await anyio.sleep(0.06)
    gate.set()


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
