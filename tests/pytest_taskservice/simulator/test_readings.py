"""Readings of the virtual clock: never twice the same, never short after a wait, and told by the seed."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from pytest_taskservice.hunting import CelerySim, find
from pytest_taskservice.simulator.core.simulation import Simulation
from pytest_taskservice.simulator.loops.world import open_stage

if TYPE_CHECKING:
    from collections.abc import Callable

app = Celery("read", broker="redis://localhost/0", backend="redis://localhost/0", set_as_current=False)

CLOCKS = (
    "time",
    "time_ns",
    "datetime",
    "celery",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
)


def now(name: str) -> Any:
    """Read a clock, which is looked up only now: a simulation may have put another in its place."""
    if name == "datetime":
        return datetime.now(tz=UTC)
    return app.now() if name == "celery" else getattr(time, name)()


@app.task(shared=False)
def read(name: str) -> list[str]:
    return [str(now(name)) for _ in range(3)]


@app.task(shared=False)
def wait() -> float:
    time.monotonic()
    began = time.monotonic()
    time.sleep(60)
    return time.monotonic() - began


def simulated(check: object) -> None:
    """Run a check in a simulation."""
    assert find(app, check, seeds=1) is None  # type: ignore[arg-type] # any callable


@pytest.mark.parametrize("name", CLOCKS)
def test_a_test_and_a_task_never_read_the_same_twice(name: str) -> None:
    seen: list[list[object]] = []

    def check() -> None:
        seen.append([now(name) for _ in range(3)])
        seen.append(read.delay(name).get())

    simulated(check)

    for readings in seen:
        assert len(set(readings)) == 3
        assert sorted(readings, key=str) == readings


def test_what_is_waited_for_takes_exactly_as_long_from_a_reading_on() -> None:
    def check(sim: CelerySim) -> None:
        time.time()
        began = time.time()
        sim.advance(hours=1)
        assert time.time() - began == 3600.0
        assert wait.delay().get() == 60.0

    simulated(check)


def test_a_clock_is_read_any_number_of_times() -> None:
    simulation = Simulation(seed=0, start=0.0, on_move=lambda _: None)
    for _ in range(1_100_000):
        simulation.read()

    assert simulation.elapsed > 3600.0


def test_a_loop_that_only_asks_for_the_time_ends() -> None:
    def check() -> None:
        end = time.time() + 3_600
        while time.time() < end:
            pass

    simulated(check)


def test_one_seed_tells_the_same_readings_whatever_other_threads_read() -> None:
    told: list[tuple[list[float], list[str], str]] = []
    threads = [0]

    def check(sim: CelerySim) -> None:
        others = [
            threading.Thread(target=lambda: [time.time() for _ in range(100)]) for _ in range(threads[0])
        ]
        for other in others:
            other.start()
        readings = [time.time() for _ in range(5)]
        for other in others:
            other.join()
        told.append((readings, read.delay("datetime").get(), sim.digest))

    simulated(check)
    threads[0] = 2
    simulated(check)

    assert told[0] == told[1]


SECONDS = (0.05, 0.1, 0.2, 0.3, 0.7, 1, 1.5, 2.7)


def _sleeps(seconds: float) -> None:
    time.sleep(seconds)


def _sleeps_in_a_loop(seconds: float) -> None:
    asyncio.run(asyncio.sleep(seconds))


def _is_never_short(sleep: Callable[[float], None]) -> None:
    for name in ("time", "monotonic", "perf_counter", "datetime"):
        for seconds in SECONDS:
            began = now(name)
            sleep(seconds)
            took = now(name) - began
            took = took.total_seconds() if isinstance(took, timedelta) else took
            assert seconds <= took < seconds + 1e-5, name


@app.task(shared=False)
def never_short() -> None:
    _is_never_short(_sleeps)


def test_a_sleep_is_never_measured_shorter_than_it_was_to_be() -> None:
    def check() -> None:
        _is_never_short(_sleeps)
        _is_never_short(_sleeps_in_a_loop)
        never_short.delay().get()

    simulated(check)


@pytest.mark.parametrize("sleep", [_sleeps, _sleeps_in_a_loop])
def test_nor_is_it_where_there_are_event_loops_alone(sleep: Callable[[float], None]) -> None:
    with open_stage():
        _is_never_short(sleep)


def test_what_sleeps_meanwhile_makes_no_sleep_shorter() -> None:
    async def sleep(seconds: float) -> None:
        began = time.time()
        await asyncio.sleep(seconds)
        assert time.time() - began >= seconds

    async def main() -> None:
        await asyncio.gather(*(sleep(seconds) for seconds in SECONDS))

    simulated(lambda: asyncio.run(main()))


def test_whole_seconds_and_halves_are_exact_in_event_loops_alone() -> None:
    with open_stage():
        began = time.time()
        for _ in range(3):
            asyncio.run(asyncio.sleep(20.5))
            time.time()
        assert time.time() - began == 61.5
