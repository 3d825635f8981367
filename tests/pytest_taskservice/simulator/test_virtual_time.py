"""The anyio world in virtual time, as a test of the service sees it, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest
from anyio.from_thread import start_blocking_portal

from pytest_taskservice.errors import HarnessError, SimulationBudgetError
from pytest_taskservice.simulator.loops.seats import Limits
from pytest_taskservice.simulator.loops.world import open_stage
from pytest_taskservice.simulator.overdue import OverdueError
from taskservice import (
    AnyIOBackend,
    BlockingTaskService,
    RetryPolicy,
    RunExpiredError,
    SoftTimeLimitError,
    TaskRegistry,
    TaskService,
    TimeLimitError,
    task,
)
from taskservice.backends.loops import current_notifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Literal

    from pytest_taskservice.clock import Clock

REGISTRY = TaskRegistry()
PATIENT = RetryPolicy(max_attempts=4, base=timedelta(minutes=10), cap=timedelta(hours=8))
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

in_world = pytest.mark.taskservice(backend="anyio")


@task(registry=REGISTRY)
async def stamp() -> str:
    return datetime.now(UTC).isoformat()


@task(registry=REGISTRY)
def sleep_in_thread(seconds: float) -> float:
    before = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - before


@task(registry=REGISTRY, retry=PATIENT)
async def always_fails() -> None:
    SEEN.append(datetime.now(UTC) - BEGIN)
    raise ValueError("no")


@task(registry=REGISTRY, time_limit=60)
async def too_long() -> None:
    await anyio.sleep(3600)


@task(registry=REGISTRY, soft_time_limit=30, time_limit=60)
async def softly_too_long() -> None:
    await anyio.sleep(3600)


SEEN: list[timedelta] = []


@in_world
def test_time_begins_where_it_always_does_and_stands_still(taskservice_clock: Clock) -> None:
    assert taskservice_clock.now() == datetime.now(UTC) == BEGIN
    assert time.time() == BEGIN.timestamp()


@in_world
def test_a_countdown_is_over_after_its_time_and_not_before(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    _, handle = task_service.options(countdown=3600).launch_task(stamp)

    taskservice_clock.advance(seconds=3599)
    early = handle.ready()
    taskservice_clock.advance(seconds=1)

    assert (early, handle.ready()) == (False, True)
    assert handle.result() == "2026-01-01T01:00:00+00:00"


@in_world
def test_a_result_is_waited_for_in_virtual_time(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    _, handle = task_service.options(eta=BEGIN + 365 * 24 * HOUR).launch_task(stamp)

    assert handle.result() == "2027-01-01T00:00:00+00:00"
    assert taskservice_clock.now() == datetime(2027, 1, 1, tzinfo=UTC)


@in_world
def test_back_off_happens_attempt_by_attempt(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    SEEN.clear()
    task_service.launch_task(always_fails)

    taskservice_clock.advance(days=1)

    assert [after.total_seconds() for after in SEEN] == [0, 600, 1800, 4200]


@in_world
def test_until_idle_means_that_nothing_is_due_any_more(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    _, handle = task_service.options(countdown=3600).launch_task(stamp)

    taskservice_clock.run_until_idle()

    assert handle.ready()
    assert taskservice_clock.now() == BEGIN + HOUR


@in_world
def test_limits_of_async_functions_are_seen_in_virtual_time(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    _, hard = task_service.launch_task(too_long)
    _, soft = task_service.launch_task(softly_too_long)

    with pytest.raises(SoftTimeLimitError):
        soft.result()
    softly = taskservice_clock.now()
    with pytest.raises(TimeLimitError):
        hard.result()

    assert softly == BEGIN + timedelta(seconds=30)
    assert taskservice_clock.now() == BEGIN + timedelta(seconds=60)


@in_world
def test_a_run_that_waits_too_long_for_a_thread_expires(task_service: BlockingTaskService) -> None:
    for _ in range(40):
        task_service.launch_task(sleep_in_thread, 100)
    _, handle = task_service.options(expires=50).launch_task(sleep_in_thread, 1)

    with pytest.raises(RunExpiredError):
        handle.result()


@in_world
def test_sleep_in_a_plain_function_takes_virtual_time(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    handles = [task_service.launch_task(sleep_in_thread, 3600)[1] for _ in range(5)]

    assert [handle.result() for handle in handles] == [3600.0] * 5
    assert taskservice_clock.now() == BEGIN + HOUR


@in_world
def test_sleep_in_the_test_lets_everybody_else_go_on(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    _, handle = task_service.options(countdown=60).launch_task(stamp)

    time.sleep(61)

    assert handle.ready()


@in_world
def test_a_portal_and_loops_of_the_tests_own_are_in_virtual_time(taskservice_clock: Clock) -> None:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_hour()):
        portal.call(anyio.sleep, 3600)
    anyio.run(anyio.sleep, 3600, backend="trio")
    asyncio.run(asyncio.sleep(3600))

    assert taskservice_clock.now() == BEGIN + 4 * HOUR


@in_world
@pytest.mark.anyio
async def test_an_async_test_sleeps_until_all_is_done_that_is_due(
    task_service: TaskService, taskservice_clock: Clock
) -> None:
    handles = [(await task_service.options(countdown=3600).launch_task(stamp))[1] for _ in range(3)]

    await taskservice_clock.sleep(hours=1)

    assert [await handle.ready() for handle in handles] == [True] * 3
    assert datetime.now(UTC) == BEGIN + HOUR


@in_world
@pytest.mark.anyio
async def test_an_async_test_is_told_how_to_wait(taskservice_clock: Clock) -> None:
    with pytest.raises(HarnessError, match=r"await taskservice_clock\.sleep\(hours=1\)"):
        taskservice_clock.advance(hours=1)


@in_world
@pytest.mark.anyio
async def test_a_timeout_is_virtual(taskservice_clock: Clock) -> None:
    with anyio.move_on_after(3600) as scope:
        await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert taskservice_clock.now() == BEGIN + HOUR


@in_world
@pytest.mark.anyio
async def test_sleep_that_blocks_a_loop_takes_virtual_time_too(taskservice_clock: Clock) -> None:
    time.sleep(5)  # noqa: ASYNC251 - what is tested

    assert taskservice_clock.now() == BEGIN + timedelta(seconds=5)


@in_world
def test_setting_the_wall_clock_moves_no_timer(
    task_service: BlockingTaskService, taskservice_clock: Clock
) -> None:
    _, handle = task_service.options(countdown=60).launch_task(stamp)

    taskservice_clock.set_wall_clock(datetime(2030, 1, 1, tzinfo=UTC))
    early = handle.ready()

    assert (early, handle.result()) == (False, "2030-01-01T00:01:00+00:00")


@pytest.mark.taskservice(backend="anyio", clock="real")
def test_a_test_may_keep_real_time(task_service: BlockingTaskService) -> None:
    _, handle = task_service.launch_task(stamp)

    assert datetime.fromisoformat(handle.result()) != BEGIN


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_one_seed_is_one_order_and_another_is_another(loop: Literal["asyncio", "trio"]) -> None:
    orders = [_order(loop, seed) for seed in (1, 1, 2, 3, 4)]

    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1


def test_chance_is_the_seeds_and_given_back() -> None:
    random.seed(5)
    untouched = random.random()
    random.seed(5)
    drawn = []
    for _ in range(2):
        with open_stage(seed=3):
            drawn.append(random.random())

    assert drawn[0] == drawn[1] != untouched
    assert random.random() == untouched


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_world_of_sleeps_without_end_is_stopped(loop: str) -> None:
    async def never_ends() -> None:
        while True:  # noqa: ASYNC110 - what is tested
            await anyio.sleep(60)

    with open_stage(limits=Limits(moves=500)), start_blocking_portal(loop) as portal:
        future = portal.start_task_soon(never_ends)
        with pytest.raises(SimulationBudgetError, match=r"500 events[\s\S]*never_ends"):
            future.result()
        future.cancel()


def _compute_for_ever() -> None:
    while True:
        # Whoever catches all errors is ended as well.
        with suppress(Exception):
            pass


async def _turn_for_ever() -> None:
    _compute_for_ever()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_thread_at_work_for_ever_is_ended(loop: str) -> None:
    with open_stage(limits=Limits(work=1.0)):
        with pytest.raises(OverdueError, match="at work for too long"):
            anyio.run(anyio.to_thread.run_sync, _compute_for_ever, backend=loop)

        began = time.monotonic()
        anyio.run(anyio.sleep, 3600, backend=loop)
        assert time.monotonic() - began == 3600


def test_a_loop_at_work_for_ever_is_ended() -> None:
    with (
        open_stage(limits=Limits(work=1.0)),
        start_blocking_portal("asyncio") as portal,
        pytest.raises(OverdueError),
    ):
        portal.call(_turn_for_ever)


class Clerk(threading.Thread):
    """A thread that a library has for itself, as aiosqlite does; it works for some real milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._asked: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while (told := self._asked.get()) is not None:
            sum(range(400_000))
            told()

    async def answer(self) -> None:
        came, notify = anyio.Event(), current_notifier()
        self._asked.put(lambda: notify(came.set))
        await came.wait()

    def end(self) -> None:
        self._asked.put(None)
        self.join()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_thread_that_nobody_counts_gets_on_before_time_leaps(loop: str) -> None:
    async def ask() -> None:
        clerk = Clerk()
        for _ in range(5):
            with anyio.fail_after(1):
                await clerk.answer()
        clerk.end()

    with open_stage():
        anyio.run(ask, backend=loop)


def test_years_are_bounded_as_well() -> None:
    async def sleeps_for_a_century() -> None:
        await anyio.sleep(101 * 365 * 86_400)

    with open_stage(), pytest.raises(SimulationBudgetError):
        asyncio.run(sleeps_for_a_century())


def test_nothing_is_left_of_a_world() -> None:
    before = (time.sleep, time.monotonic, asyncio.new_event_loop)

    with open_stage():
        anyio.run(anyio.sleep, 3600)

    assert (time.sleep, time.monotonic, asyncio.new_event_loop) == before
    assert datetime.now(UTC) != BEGIN
    assert type(asyncio.new_event_loop()).__module__.startswith("asyncio")


def test_retention_goes_by_the_clock() -> None:
    async def run() -> bool:
        async with AnyIOBackend(retention=60) as backend:
            handle = await backend.launch_task(stamp)
            await handle.result()
            await anyio.sleep(61)
            try:
                await backend.get_task(handle.id)
            except LookupError:
                return True
            return False

    with open_stage():
        assert anyio.run(run)


@asynccontextmanager
async def _hour() -> AsyncIterator[None]:
    await anyio.sleep(1800)
    yield
    await anyio.sleep(1800)


def _order(loop: str, seed: int) -> list[int]:
    done: list[int] = []

    async def work(number: int) -> None:
        for _ in range(3):
            await anyio.sleep(1)
            done.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(work, number)

    with open_stage(seed=seed):
        anyio.run(main, backend=loop)
    return done
