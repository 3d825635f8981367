"""How fast runs are sent and collected, beside raw Celery and bare AnyIO doing the same.

Starts one Redis and one real worker (prefork, two processes), and ends them. Every round measures each
way once, one after the other, so that whatever else the machine does hits them alike; figures are
medians over the rounds, ratios are medians of the rounds' own ratios. Prints a table and one line of JSON.

    python benchmarks/throughput.py [ROUNDS]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import AnyIOBackend, CeleryBackend, Settings, create_app, read_heartbeats, task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from celery import Celery

    from taskservice import TaskBackend, TaskHandle

HERE = Path(__file__).parent
MANY = 10_000
LOOP = 1_000
COLLECTED = 3_000
PACK = 50
IN_PROCESS = 5_000
TRIPS = 300
WAIT = 60.0
# A worker of another queue never sees what is only sent.
NOWHERE = "nowhere"


@task(name="throughput.noop")
def noop() -> None:
    """Do nothing, on a worker."""


@task(name="throughput.idle", queue=NOWHERE)
def idle() -> None:
    """Do nothing, never."""


async def nothing() -> None:
    """Do nothing, in process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two ways to do the same, in units per second, or in seconds if ``lower`` is better."""

    name: str
    ours: str
    theirs: str
    promise: float
    unit: str = "/s"
    pairs: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(ours / theirs for ours, theirs in self.pairs)

    @property
    def kept(self) -> bool:
        return self.ratio >= self.promise if self.unit == "/s" else self.ratio <= self.promise

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            self.ours: round(statistics.median(pair[0] for pair in self.pairs), 2),
            self.theirs: round(statistics.median(pair[1] for pair in self.pairs), 2),
            "ratio": round(self.ratio, 2),
            "promise": self.promise,
            "kept": self.kept,
        }


def clocked(count: int, act: Callable[[], object]) -> float:
    """Return how many a second ``act`` does, doing ``count``."""
    started = time.perf_counter()
    act()
    return count / (time.perf_counter() - started)


async def clocked_async(count: int, act: Callable[[], Awaitable[object]]) -> float:
    """Return how many a second ``act`` does, doing ``count``."""
    started = time.perf_counter()
    await act()
    return count / (time.perf_counter() - started)


class Bench:
    """Everything measured against one app and the worker behind it."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._noop: Any = app.tasks[noop.name]
        self._idle: Any = app.tasks[idle.name]
        self._many = Comparison(
            name=f"{MANY} sent", ours="launch_many", theirs="loop of task.delay", promise=10
        )
        self._one = Comparison(name="one sent", ours="launch_task", theirs="task.delay", promise=0.95)
        self._single = Comparison(
            name=f"{COLLECTED} sent and collected", ours="launch_many", theirs="delay and get", promise=1.4
        )
        self._packed = Comparison(
            name=f"the same, {PACK} a message", ours="launch_many", theirs="delay and get", promise=3
        )
        self._bare = Comparison(
            name=f"{IN_PROCESS} in process", ours="launch_task", theirs="bare start_soon", promise=0.6
        )
        self._bare_many = Comparison(
            name=f"{IN_PROCESS} in process at once",
            ours="launch_many",
            theirs="bare start_soon",
            promise=0.6,
        )
        self._p50 = Comparison(
            name="round trip p50", ours="result()", theirs="get()", promise=1.05, unit="ms"
        )
        self._p99 = Comparison(
            name="round trip p99", ours="result()", theirs="get()", promise=1.05, unit="ms"
        )

    def comparisons(self) -> list[Comparison]:
        every = (
            self._many,
            self._one,
            self._single,
            self._packed,
            self._bare,
            self._bare_many,
            self._p50,
            self._p99,
        )
        return [each for each in every if each.pairs]

    async def round(self, number: int) -> None:
        """Measure every way once; who goes first changes from round to round."""
        async with CeleryBackend(self._app) as celery:
            await self._sending(celery)
            await self._collecting(celery, first=number % 2 == 0)
            await self._trips(celery)
        await self._in_process()

    async def _sending(self, backend: TaskBackend) -> None:
        many = await clocked_async(MANY, lambda: backend.launch_many(idle, [()] * MANY))

        def loop() -> None:
            for _ in range(LOOP):
                self._idle.delay()

        async def singly() -> None:
            for _ in range(LOOP):
                await backend.launch_task(idle)

        delayed = clocked(LOOP, loop)
        single = await clocked_async(LOOP, singly)
        self._many.pairs.append((many, delayed))
        self._one.pairs.append((single, delayed))

    async def _collecting(self, backend: TaskBackend, *, first: bool) -> None:
        def raw() -> None:
            results = [self._noop.delay() for _ in range(COLLECTED)]
            for result in results:
                result.get(timeout=WAIT)

        async def ours(per_message: int) -> None:
            await collect(await backend.launch_many(noop, [()] * COLLECTED, per_message=per_message))

        before = clocked(COLLECTED, raw) if first else 0.0
        single = await clocked_async(COLLECTED, lambda: ours(1))
        packed = await clocked_async(COLLECTED, lambda: ours(PACK))
        theirs = before or clocked(COLLECTED, raw)
        self._single.pairs.append((single, theirs))
        self._packed.pairs.append((packed, theirs))

    async def _trips(self, backend: TaskBackend) -> None:
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(TRIPS):
            started = time.perf_counter()
            await (await backend.launch_task(noop)).result(WAIT)
            between = time.perf_counter()
            self._noop.delay().get(timeout=WAIT)
            theirs.append(time.perf_counter() - between)
            ours.append(between - started)
        for percent, comparison in ((50, self._p50), (99, self._p99)):
            pair = (percentile(ours, percent) * 1000, percentile(theirs, percent) * 1000)
            comparison.pairs.append(pair)

    async def _in_process(self) -> None:
        async with AnyIOBackend() as backend:

            async def singly() -> None:
                for handle in [await backend.launch_task(nothing) for _ in range(IN_PROCESS)]:
                    await handle.result()

            async def at_once() -> None:
                for handle in await backend.launch_many(nothing, [()] * IN_PROCESS):
                    await handle.result()

            one = await clocked_async(IN_PROCESS, singly)
            bare = await clocked_async(IN_PROCESS, start_bare)
            many = await clocked_async(IN_PROCESS, at_once)
        self._bare.pairs.append((one, bare))
        self._bare_many.pairs.append((many, bare))


class BareResult:
    """What somebody without a task service would write to get a result back."""

    def __init__(self) -> None:
        self.id = str(uuid4())
        self.done = anyio.Event()
        self.value: object = None
        self.error: Exception | None = None

    async def run(self) -> None:
        try:
            self.value = await nothing()  # type: ignore[func-returns-value]
        except Exception as error:  # noqa: BLE001 - kept for whoever awaits it
            self.error = error
        self.done.set()

    async def result(self) -> object:
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.value


async def start_bare() -> None:
    """Start and await as many, with AnyIO alone."""
    async with anyio.create_task_group() as group:
        results = [BareResult() for _ in range(IN_PROCESS)]
        for result in results:
            group.start_soon(result.run)
        for result in results:
            await result.result()


async def collect(handles: list[TaskHandle]) -> None:
    """Await them all at once."""
    async with anyio.create_task_group() as group:
        for handle in handles:
            group.start_soon(handle.result, WAIT)


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


@contextmanager
def worker(settings: Settings) -> Iterator[None]:
    """One real worker with two processes, from its first heartbeat on."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "TASKSERVICE_REDIS_URL": settings.redis_url,
        "TASKSERVICE_IMPORTS": "throughput",
    }
    code = "from taskservice.cli import main; main()"
    argv = [sys.executable, "-c", code, "worker", "-P", "prefork", "-c", "2", "--loglevel", "WARNING"]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT
        while not read_heartbeats(settings.redis_url, settings.key_prefix):
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError("the worker did not come up")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=WAIT)


def measure(rounds: int) -> list[Comparison]:
    """Start everything, warm up by one round that does not count, measure, end everything."""
    with ExitStack() as stack:
        server = acquire(RedisRequest(choice="server"))
        stack.callback(server.close)
        settings = Settings(redis_url=server.url)
        app = create_app(settings)
        stack.enter_context(worker(settings))
        anyio.run(Bench(app).round, 0)

        bench = Bench(app)
        for number in range(rounds):
            # What was only sent would make the server larger from round to round.
            with app.connection_for_write() as connection:
                app.amqp.queues[NOWHERE](connection.default_channel).purge()
            anyio.run(bench.round, number)
        return bench.comparisons()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    found = measure(max(1, rounds))

    print(f"{'':34} {'ours':>22} {'theirs':>28} {'ratio':>7} {'promise':>8}")
    for each in found:
        row = each.row()
        ours = f"{each.ours} {row[each.ours]:,.1f}"
        theirs = f"{each.theirs} {row[each.theirs]:,.1f}"
        verdict = "kept" if each.kept else "missed"
        what = f"{each.name}, {each.unit}"
        print(f"{what:34} {ours:>22} {theirs:>28} {row['ratio']:>7} {each.promise:>8} {verdict}")
    print(json.dumps({"rounds": rounds, "rows": [each.row() for each in found]}))


if __name__ == "__main__":
    main()
