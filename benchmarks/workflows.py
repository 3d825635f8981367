"""Measures durable workflows: how soon a client sees an event, what a question costs, what waiting costs.

    python -m benchmarks.workflows [--rounds 5] [--json FILE]

One real worker with two processes on a Redis of its own. A run with one question is measured from its start
to its result, as its client sees it by events; beside it, in turn, two no-ops on the same worker are sent and
awaited by Celery's own ``delay().get()``, one after the other. Ours is the difference of the medians. What
waiting costs is asked of a second Redis, on which nothing else happens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from redis import Redis

from benchmarks.figures import Spread, percentile
from benchmarks.flows import asking, chatty
from benchmarks.noops import noop
from benchmarks.processes import WAIT
from benchmarks.throughput import worker
from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import CeleryBackend, Settings, TaskService, create_app
from taskservice.workflow import WorkflowClient, default_workflows
from taskservice.workflow.definitions import new_run
from taskservice.workflow.runtime import WorkflowRuntime, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery import Celery

EVENTS: Final = 500
PAUSE: Final = 0.004
"""Longer than events are gathered, so that each goes out by itself."""
QUESTIONS: Final = 100
WAITING: Final = 1000
IDLE: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """A figure per round."""

    name: str
    aim: float | None
    unit: str
    values: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        spread = Spread.of(self.values)
        reached = None if self.aim is None else spread.median <= self.aim
        return {
            "name": self.name,
            "unit": self.unit,
            **spread.as_json(),
            "aim": self.aim,
            "reached": reached,
        }


class Rounds:
    """All that is measured round by round."""

    def __init__(self) -> None:
        self.found: list[Found] = []

    def add(self, name: str, value: float, *, aim: float | None = None, unit: str = "ms") -> None:
        """Add one round's figure."""
        known = next((each for each in self.found if each.name == name), None)
        if known is None:
            known = Found(name=name, aim=aim, unit=unit)
            self.found.append(known)
        known.values.append(value)


async def events(client: WorkflowClient, rounds: Rounds) -> None:
    """Measure from ``ctx.emit`` in a worker to an async client here."""
    run_id = await client.start(chatty, EVENTS, PAUSE)
    delays = [
        (time.time() - event.data) * 1000 async for event in client.events(run_id) if event.kind == "tick"
    ]
    assert len(delays) == EVENTS
    rounds.add("emit to async client p50", percentile(delays, 50), aim=1)
    rounds.add("emit to async client p99", percentile(delays, 99), aim=5)


async def questions(client: WorkflowClient, app: Celery, rounds: Rounds) -> None:
    """Measure runs with one question, and Celery's two round trips in turn."""
    spans: dict[str, list[float]] = {"start": [], "asked": [], "answer": [], "result": [], "run": []}
    trips: list[float] = []
    for _ in range(QUESTIONS):
        await question(client, spans)
        trips.append(await anyio.to_thread.run_sync(two_trips, app))
    for name, values in spans.items():
        told = "run with one question p50" if name == "run" else f"  of it: {name}"
        rounds.add(told, percentile(values, 50))
    rounds.add("Celery's two round trips p50", percentile(trips, 50))
    rounds.add("ours of it p50", percentile(spans["run"], 50) - percentile(trips, 50), aim=15)


async def question(client: WorkflowClient, spans: dict[str, list[float]]) -> None:
    """Start a run, wait for its question, answer it, wait for its result."""
    marks = [time.perf_counter()]
    run_id = await client.start(asking)
    marks.append(time.perf_counter())
    async for event in client.events(run_id):
        if event.kind == "question":
            marks.append(time.perf_counter())
            await client.send_input(run_id, 7, event.data["id"])
            marks.append(time.perf_counter())
        if event.data.get("result") == 7:
            marks.append(time.perf_counter())
    for name, begun, ended in zip(spans, marks[:-1], marks[1:], strict=False):
        spans[name].append((ended - begun) * 1000)
    spans["run"].append((marks[-1] - marks[0]) * 1000)


def two_trips(app: Celery) -> float:
    """Send a no-op and await it, twice."""
    started = time.perf_counter()
    for _ in range(2):
        app.tasks[noop.name].delay().get(timeout=WAIT)
    return (time.perf_counter() - started) * 1000


async def waiting(settings: Settings, rounds: Rounds) -> None:
    """Measure what runs that wait for their users cost, and clients that wait for news of them."""
    with Redis.from_url(settings.redis_url) as redis, ExitStack() as held:
        redis.flushall()
        store = open_store(settings, shared=True, held=held)
        runtime = WorkflowRuntime.from_settings(settings, store=store)
        held.callback(runtime.close)
        before = redis.info("memory")["used_memory"]
        ids = [await anyio.to_thread.run_sync(ask, runtime) for _ in range(WAITING)]
        used = redis.info("memory")["used_memory"] - before
        rounds.add("Redis memory per waiting run", used / WAITING, aim=4096, unit="bytes")

        service = TaskService(CeleryBackend(create_app(settings), settings=settings))
        async with service, WorkflowClient(service, settings=settings) as client:
            for clients in (1, WAITING):
                async with reading(client, ids[:clients]):
                    rate = await commands(redis)
                    connections = len(redis.client_list(_type="pubsub"))
                unit, name = "/s", f"commands while {clients:,} clients are idle"
                rounds.add(name, rate, aim=1, unit=unit)
                rounds.add(f"connections that {clients:,} clients read by", connections, aim=1, unit="")


def ask(runtime: WorkflowRuntime) -> str:
    """Bring a run to its question."""
    run = new_run(asking, owner="ann", now=time.time(), payload_limit=runtime.payload_limit)
    runtime.store.create(run, ("status", {"status": run.status.value}))
    assert runtime.runner.execute(run.id) == "INPUT"
    return run.id


@asynccontextmanager
async def reading(client: WorkflowClient, ids: list[str]) -> AsyncIterator[None]:
    """Have a client wait for each run's next event."""
    ready = 0
    everybody = anyio.Event()

    async def read(run_id: str) -> None:
        nonlocal ready
        async for event in client.events(run_id):
            if event.kind == "question":
                ready += 1
                if ready == len(ids):
                    everybody.set()

    async with anyio.create_task_group() as group:
        for run_id in ids:
            group.start_soon(read, run_id)
        with anyio.fail_after(WAIT):
            await everybody.wait()
        await anyio.sleep(1)  # what they do once
        yield
        group.cancel_scope.cancel()


async def commands(redis: Redis) -> float:
    """Return how many commands a second the server gets, but those of ours."""
    started = time.monotonic()
    before: int = redis.info("stats")["total_commands_processed"]
    await anyio.sleep(IDLE)
    seen: int = redis.info("stats")["total_commands_processed"]
    rate: float = (seen - before - 1) / (time.monotonic() - started)
    return rate


def measure(count: int) -> Rounds:
    """Start everything, warm up by one round that does not count, measure, end everything."""
    with ExitStack() as stack:
        busy = acquire(RedisRequest(choice="server"))
        stack.callback(busy.close)
        calm = acquire(RedisRequest(choice="server"))
        stack.callback(calm.close)
        settings = Settings(redis_url=busy.url)
        stack.enter_context(worker(settings, imports="benchmarks.noops,benchmarks.flows"))
        found = Rounds()
        for number in range(count + 1):
            if number == 1:
                found = Rounds()
            anyio.run(one_round, settings, found)
            anyio.run(waiting, Settings(redis_url=calm.url), found)
        return found


async def one_round(settings: Settings, rounds: Rounds) -> None:
    """Measure what needs a worker."""
    app = create_app(settings)
    service = TaskService(CeleryBackend(app, settings=settings))
    async with service, WorkflowClient(service, settings=settings) as client:
        await events(client, rounds)
        await questions(client, app, rounds)


def main() -> None:
    """Measure, print, write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()

    assert asking.name in default_workflows
    rounds = max(1, options.rounds)
    found = measure(rounds)
    for each in found.found:
        told = each.as_json()
        verdict = "" if told["reached"] in {True, None} else "  missed"
        aim = "" if each.aim is None else f"aim {each.aim:g}"
        print(f"{f'{each.name}, {each.unit}':48} {Spread.of(each.values)!s:>30}  {aim:>9}{verdict}")
    if options.json:
        told = {
            "rounds": rounds,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "figures": [each.as_json() for each in found.found],
        }
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
