"""Virtual time stands still while a thread works that the event loop of a task waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

app = Celery("standing", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")


def work_for_real() -> int:
    """Be busy for so long that a clock that did not stand still would be far away."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.3)
    return 1


async def in_executor() -> int:
    return await asyncio.get_running_loop().run_in_executor(None, work_for_real)


async def in_worker_thread() -> int:
    import anyio.to_thread

    return await anyio.to_thread.run_sync(work_for_real)


@app.task
def compute(how: str) -> int:
    ways: dict[str, Callable[[], Any]] = {"executor": in_executor, "worker": in_worker_thread}
    return int(asyncio.run(ways[how]()))


@pytest.fixture(autouse=True)
def simulation() -> Iterator[CelerySimDriver]:
    """The simulation that each test runs in."""
    driver = CelerySimDriver(options=SimulatorOptions())
    driver.begin(app, {})
    yield driver
    driver.reset()


@pytest.mark.parametrize("how", ["executor", "worker"])
def test_for_a_test_that_waits_for_its_result(how: str) -> None:
    started = time.time()

    assert compute.delay(how).get(timeout=60) == 1
    assert time.time() - started < 5


@pytest.mark.parametrize("how", ["executor", "worker"])
def test_when_another_thread_has_waited_meanwhile(how: str) -> None:
    started = time.time()
    result = compute.delay(how)
    beside = threading.Thread(target=time.sleep, args=(0.05,))
    beside.start()
    beside.join()

    assert result.get(timeout=60) == 1
    assert time.time() - started < 5


def test_not_for_a_thread_that_waits_in_the_simulation() -> None:
    async def sleep_in_a_thread() -> None:
        await asyncio.to_thread(time.sleep, 3600)

    @app.task(shared=False)
    def nap() -> str:
        asyncio.run(sleep_in_a_thread())
        return "rested"

    started = time.time()

    assert nap.delay().get() == "rested"
    assert 3600 <= time.time() - started < 3605


def test_who_spends_a_moment_that_ends_just_before_an_event_is_through(simulation: CelerySimDriver) -> None:
    @app.task(shared=False)
    def rest() -> None:
        asyncio.run(asyncio.sleep(60))

    rest.delay()
    clock = simulation.world.simulation
    clock.advance(1)
    for moment in (5e-7, 5e-6):
        clock.after(moment, list)

    # The task's loop waits, so time might stand still for what it waits for.
    clock.spend(1e-6)

    assert clock.elapsed < 2
