"""Readings of the clock in a simulation: never twice the same, exact after a wait, and told by the seed."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest
from celery import Celery

from pytest_taskservice.hunting import CelerySim, find
from pytest_taskservice.simulator.core.simulation import Simulation

app = Celery("read", broker="redis://localhost/0", backend="redis://localhost/0", set_as_current=False)

CLOCKS = {
    "time": time.time,
    "time_ns": time.time_ns,
    "datetime": lambda: datetime.now(tz=UTC),
    "celery": app.now,
    "monotonic": time.monotonic,
    "monotonic_ns": time.monotonic_ns,
    "perf_counter": time.perf_counter,
    "perf_counter_ns": time.perf_counter_ns,
}


@app.task(shared=False)
def read(name: str) -> list[str]:
    return [str(CLOCKS[name]()) for _ in range(3)]


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
        seen.append([CLOCKS[name]() for _ in range(3)])
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
