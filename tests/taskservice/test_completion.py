from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from taskservice import AnyIOBackend, BlockingTaskService, ServiceClosedError
from taskservice.completion import Completions

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskservice.runs import RunWatcher

pytestmark = pytest.mark.anyio

WAIT = 10.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Played:
    """A run whose end the test decides."""

    def __init__(self, *, over: bool = False) -> None:
        self._over = over
        self.watchers: list[RunWatcher] = []

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        self.watchers.append(watcher)
        if self._over:
            watcher(None)
        return lambda: self.watchers.remove(watcher)

    def end(self, error: Exception | None = None) -> None:
        self.watchers[0](error)


async def test_no_handles_are_completed_at_once() -> None:
    assert [handle async for handle in Completions[Played]([])] == []


async def test_a_handle_given_twice_comes_twice() -> None:
    run = Played()
    completions = Completions([run, run])

    async with anyio.create_task_group() as group:
        came: list[Played] = []

        async def follow() -> None:
            came.extend([found async for found in completions])

        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        for watcher in tuple(run.watchers):
            watcher(None)

    assert came == [run, run]


async def test_others_get_turns_while_many_have_ended() -> None:
    turns: list[int] = []
    came = 0

    async def take_turns() -> None:
        while came < 1000:
            turns.append(came)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(take_turns)
        async for _ in Completions([Played(over=True) for _ in range(1000)]):
            came += 1

    assert len(turns) > 20


async def test_it_can_be_cancelled_while_many_have_ended() -> None:
    came = 0

    with anyio.CancelScope() as scope:
        async for _ in Completions([Played(over=True) for _ in range(1000)]):
            came += 1
            scope.cancel()

    assert came == 1


async def test_leaving_early_leaves_no_watcher() -> None:
    runs = [Played(over=True), Played()]

    async for found in Completions(runs):
        assert found is runs[0]
        assert len(runs[1].watchers) == 1
        break

    gc.collect()
    assert [run.watchers for run in runs] == [[], []]


async def test_an_end_nobody_will_know_is_an_error() -> None:
    runs = [Played(), Played()]
    completions = Completions(runs)
    with anyio.move_on_after(0.01):
        await anext(completions)
    runs[0].end(ServiceClosedError("back end"))

    with pytest.raises(ServiceClosedError):
        await anext(completions)

    assert runs[1].watchers == []


async def echo(value: int) -> int:
    return value


def test_threads_iterate_over_what_completes() -> None:
    with BlockingTaskService(AnyIOBackend()) as service:
        handles = [service.options(priority=1).launch_task(echo, number)[1] for number in range(10)]

        results = {handle.result(timeout=0) for handle in service.as_completed(handles)}

        assert results == set(range(10))
        assert service.options(countdown=0.01).launch_and_await_task(echo, 7)[1] == 7


def test_threads_may_stop_early_and_close() -> None:
    with BlockingTaskService(AnyIOBackend(grace=0)) as service:
        _, quick = service.launch_task(echo, 1)
        _, slow = service.options(countdown=60).launch_task(echo, 2)
        completed = service.as_completed([slow, quick])

        assert next(completed) is quick
    completed.close()  # type: ignore[attr-defined]


def test_a_closed_blocking_service_completes_nothing() -> None:
    service = BlockingTaskService(AnyIOBackend())

    with pytest.raises(ServiceClosedError):
        service.options(countdown=1)
    with pytest.raises(ServiceClosedError):
        next(service.as_completed([]))
