"""How fast simulated tests are, beside Celery's eager mode and a real worker, in one run.

    python -m benchmarks.simulator [--rounds 3] [--tasks 2000] [--json FILE]

Each round measures, one after the other: plain tasks with their results in the simulator, in eager mode and
on a real worker process; what opening and closing a simulation costs a test; a day of a beat that fires
every five minutes; an idle year; and a ten-task scenario over many seeds, in one process and in as many as
there are cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import timeit
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import chain, chord, group

from benchmarks.figures import Spread
from benchmarks.sums import EVERY, add, app, total
from pytest_taskservice.drivers.celery_eager import CeleryEagerDriver
from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver, WorkerOptions
from pytest_taskservice.hunting import find
from pytest_taskservice.redis import RedisRequest, acquire
from taskservice.reaper import shared_reaper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.drivers.base import WorldDriver

DAY = 86_400.0
YEAR = 365 * DAY
TESTS = 100
SEEDS = 200

# What is promised, and whether more is better.
PROMISES = {
    "tasks with results, a second": (4_000.0, True),
    "fixed cost of a simulated test, ms": (3.0, False),
    "24 h of a 5-minute beat, s": (0.2, False),
    "an idle year, ms": (20.0, False),
    "seeds a second, ten tasks": (200.0, True),
    "seeds a second, ten tasks, a process on each core": (200.0, True),
}


def main(argv: list[str]) -> int:
    """Measure, print a table, and say by the exit code whether all promises were kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    rows: dict[str, list[float]] = {}
    with worlds() as (simulator, eager, worker):
        for _ in range(options.rounds):
            for name, driver in (("", simulator), (" (eager mode)", eager), (" (a real worker)", worker)):
                figures = rows.setdefault(f"tasks with results, a second{name}", [])
                figures.append(plain(driver, options.tasks))
            rows.setdefault("fixed cost of a simulated test, ms", []).append(fixed_cost(simulator))
            rows.setdefault("24 h of a 5-minute beat, s", []).append(beat_day(simulator))
            rows.setdefault("an idle year, ms", []).append(idle_year(simulator))
            rows.setdefault("seeds a second, ten tasks", []).append(seeds(1))
            rows.setdefault("seeds a second, ten tasks, a process on each core", []).append(seeds(cores()))
    return report(rows, options.json)


@contextmanager
def worlds() -> Iterator[tuple[CelerySimDriver, WorldDriver, WorldDriver]]:
    """Open the three worlds."""
    reaper = shared_reaper()
    server = acquire(RedisRequest(choice="auto"), reaper=reaper)
    drivers = (
        CelerySimDriver(options=SimulatorOptions(keeps=True)),
        CeleryEagerDriver(),
        CeleryWorkerDriver(server, options=WorkerOptions(), reaper=reaper),
    )
    try:
        yield drivers
    finally:
        for driver in drivers:
            driver.close()
        server.close()


def plain(driver: WorldDriver, count: int) -> float:
    """Return how many tasks a second are sent and their results collected."""

    def act() -> None:
        results = [add.delay(number, 1) for number in range(count)]
        for number, result in enumerate(results):
            assert result.get(timeout=60) == number + 1

    driver.begin(app, {})
    try:
        add.delay(1, 1).get(timeout=30)
        return count / seconds(act)
    finally:
        driver.reset()


def fixed_cost(driver: CelerySimDriver) -> float:
    """Return how many milliseconds a simulation with one delayed task takes, from opening to closing."""

    def act() -> None:
        driver.begin(app, {})
        assert add.apply_async((1, 1), countdown=5).get() == 2
        driver.reset()

    act()
    return statistics.median(seconds(act) for _ in range(TESTS)) * 1000


def beat_day(driver: CelerySimDriver) -> float:
    """Return how many seconds a day of beat takes."""
    driver.begin(app, {})
    try:
        driver.world.start_worker(app)
        driver.world.start_beat(app)
        taken = seconds(lambda: driver.world.simulation.advance(DAY))
        sent = sum(event.kind == "succeeded" for event in driver.log())
        assert sent in (DAY / EVERY, DAY / EVERY - 1), sent
        return taken
    finally:
        driver.reset()


def idle_year(driver: CelerySimDriver) -> float:
    """Return how many milliseconds a year takes in which nothing happens."""
    driver.begin(app, {})
    try:
        driver.world.start_worker(app)
        return seconds(lambda: driver.world.simulation.advance(YEAR)) * 1000
    finally:
        driver.reset()


def seeds(processes: int) -> float:
    """Return how many seeds a second a scenario of ten tasks is played with."""
    count = SEEDS * processes

    def check() -> None:
        assert chord([add.s(number, 1) for number in range(5)], total.s())().get() == 15
        assert chain(add.s(1, 1), group(add.s(1), add.s(2)))().get() == [3, 4]
        assert add.apply_async((1, 1), countdown=timedelta(hours=1).total_seconds()).get() == 2

    def act() -> None:
        assert find(app, check, seeds=count, processes=processes) is None

    return count / seconds(act)


def cores() -> int:
    """Return how many processes the machine lets this one run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds(act: Callable[[], Any]) -> float:
    """Return how long ``act`` takes on the real clock, which the standard library still sees."""
    started = timeit.default_timer()
    act()
    return timeit.default_timer() - started


def report(rows: dict[str, list[float]], path: Path | None) -> int:
    """Print the table; return 1 if a promise was not kept."""
    missed = 0
    for name, values in rows.items():
        spread = Spread.of(values)
        aim, more = PROMISES.get(name, (0.0, True))
        kept = not aim or (spread.median >= aim if more else spread.median <= aim)
        missed += not kept
        bound = "at least" if more else "at most"
        promise = f"   promised: {bound} {aim:g}{'' if kept else ', MISSED'}" if aim else ""
        sys.stdout.write(f"{name:<50} {spread!s:>24}{promise}\n")
    if path is not None:
        figures = {name: Spread.of(values).as_json() for name, values in rows.items()}
        path.write_text(json.dumps(figures, indent=2))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
