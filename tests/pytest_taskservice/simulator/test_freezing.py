"""freezegun in virtual time: what is frozen goes on as the world's own clock does, however it was frozen."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from taskservice import BlockingTaskService, RunExpiredError, TaskRegistry, TaskService, task

if TYPE_CHECKING:
    from pytest_taskservice.clock import Clock

REGISTRY = TaskRegistry()
START = "2020-02-29 12:00:00"

in_world = pytest.mark.taskservice(backend="anyio")


@task(registry=REGISTRY)
async def stamp() -> str:
    return datetime.now(UTC).isoformat()


@task(registry=REGISTRY)
def sleep_in_thread(seconds: float) -> str:
    time.sleep(seconds)
    return datetime.now(UTC).isoformat()


@in_world
def test_an_eta_comes_when_frozen_time_gets_there(task_service: BlockingTaskService) -> None:
    with freeze_time(START) as frozen:
        eta = datetime.now(UTC) + timedelta(hours=1)
        _, handle = task_service.options(eta=eta).launch_task(stamp)

        frozen.tick(3599)
        early = handle.ready()
        frozen.tick()

        assert (early, handle.ready()) == (False, True)
        assert handle.result() == "2020-02-29T13:00:00+00:00"


@in_world
def test_move_to_is_a_tick_to_there(task_service: BlockingTaskService) -> None:
    with freeze_time(START) as frozen:
        handles = [task_service.options(countdown=hours * 3600).launch_task(stamp)[1] for hours in (1, 2)]

        frozen.move_to("2020-02-29 13:30:00")

        assert [handle.ready() for handle in handles] == [True, False]
        assert frozen() == frozen.time_to_freeze == datetime(2020, 2, 29, 13, 30)  # noqa: DTZ001 - as freezegun has it


@in_world
def test_a_run_expires_in_frozen_time(task_service: BlockingTaskService) -> None:
    with freeze_time(START) as frozen:
        for _ in range(40):
            task_service.launch_task(sleep_in_thread, 100)
        _, handle = task_service.options(expires=50).launch_task(stamp_in_thread)

        frozen.tick(timedelta(seconds=100))

        with pytest.raises(RunExpiredError):
            handle.result()


@task(registry=REGISTRY)
def stamp_in_thread() -> str:
    return datetime.now(UTC).isoformat()


@in_world
def test_waiting_and_sleeping_move_what_is_frozen(task_service: BlockingTaskService) -> None:
    with freeze_time(START):
        _, handle = task_service.launch_task(sleep_in_thread, 60)

        assert handle.result() == "2020-02-29T12:01:00+00:00"
        assert datetime.now(UTC).minute == 1


@in_world
def test_both_clocks_are_one(taskservice_clock: Clock) -> None:
    with freeze_time(START):
        taskservice_clock.advance(hours=1)

        assert datetime.now(UTC) == taskservice_clock.now() == datetime(2020, 2, 29, 13, tzinfo=UTC)


@in_world
def test_inner_blocks_stand_apart(taskservice_clock: Clock) -> None:
    with freeze_time(START):
        with freeze_time("2030-01-01") as inner:
            inner.tick(timedelta(days=1))
            inside = datetime.now(UTC)
        after = datetime.now(UTC)
    outside = datetime.now(UTC)

    assert inside == datetime(2030, 1, 2, tzinfo=UTC)
    assert after == datetime(2020, 2, 29, 12, tzinfo=UTC)
    # The world's own clock went on behind it.
    assert outside == taskservice_clock.now() == datetime(2026, 1, 2, tzinfo=UTC)


@in_world
def test_time_may_be_moved_back(taskservice_clock: Clock) -> None:
    with freeze_time(START) as frozen:
        frozen.move_to("2019-01-01")

        assert datetime.now(UTC) == datetime(2019, 1, 1, tzinfo=UTC)


@in_world
def test_the_clocks_of_the_world_are_back_afterwards(taskservice_clock: Clock) -> None:
    with freeze_time(START):
        pass
    before = time.monotonic()

    time.sleep(5)

    assert time.monotonic() - before == 5


@in_world
@freeze_time(START)
def test_the_decorator(task_service: BlockingTaskService, taskservice_clock: Clock) -> None:
    _, handle = task_service.options(countdown=3600).launch_task(stamp)

    assert handle.result() == "2020-02-29T13:00:00+00:00"


@in_world
@pytest.mark.freeze_time(START)
def test_the_fixture(task_service: BlockingTaskService, freezer: Any) -> None:
    _, handle = task_service.options(countdown=3600).launch_task(stamp)

    freezer.tick(3600)

    assert handle.ready()


@in_world
@pytest.mark.anyio
async def test_a_tick_in_an_async_test_is_a_jump(task_service: TaskService, taskservice_clock: Clock) -> None:
    with freeze_time(START) as frozen:
        handles = [(await task_service.options(countdown=60 * n).launch_task(stamp))[1] for n in (1, 2)]
        await taskservice_clock.sleep(seconds=0)

        frozen.tick(3600)

        assert datetime.now(UTC) == datetime(2020, 2, 29, 13, tzinfo=UTC)
        # What was due meanwhile is late.
        assert [await handle.result() for handle in handles] == ["2020-02-29T13:00:00+00:00"] * 2


@in_world
@freeze_time(START, tick=True)
def test_time_that_ticks_by_itself_does_so_virtually(taskservice_clock: Clock) -> None:
    before = datetime.now(UTC)

    taskservice_clock.advance(minutes=1)

    assert datetime.now(UTC) - before == timedelta(minutes=1)


@in_world
@freeze_time(START, auto_tick_seconds=15)
def test_time_that_ticks_when_looked_at(taskservice_clock: Clock) -> None:
    before = datetime.now(UTC)

    assert datetime.now(UTC) - before == timedelta(seconds=15)


def test_outside_of_a_world_freezegun_is_as_ever() -> None:
    with freeze_time(START) as frozen:
        frozen.tick(5)

        assert datetime.now(UTC) == datetime(2020, 2, 29, 12, 0, 5, tzinfo=UTC)
    assert datetime.now(UTC).year > 2025
