"""Runs in this process: `AnyIOBackend` beside bare AnyIO, and beside taskiq's broker in memory.

Counted by this process's own processor time: nothing here waits for anybody else, and what else the
machine does is not counted.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from importlib.util import find_spec
from time import process_time
from typing import Any, Final
from uuid import uuid4

import anyio

from benchmarks.figures import Comparison, clocked_async
from benchmarks.noops import nothing
from taskservice import AnyIOBackend

__all__ = ["InProcess"]

RUNS: Final = 5_000


class InProcess:
    """Everything that is measured without a broker."""

    def __init__(self) -> None:
        self._loops = ["asyncio", *(["trio"] if find_spec("trio") else [])]
        self._single = {loop: _against_bare("launch_task", loop) for loop in self._loops}
        self._many = {loop: _against_bare("launch_many", loop) for loop in self._loops}
        self._taskiq = Comparison(
            name=f"{RUNS:,} in process on asyncio, awaited",
            ours="launch_task",
            theirs="taskiq InMemoryBroker",
            aim=1.2,
        )

    def comparisons(self) -> list[Comparison]:
        return [*self._single.values(), *self._many.values(), self._taskiq]

    def round(self) -> None:
        """Measure every way once."""
        for loop in self._loops:
            single, many = anyio.run(measure_ours, backend=loop)
            bare = anyio.run(clocked_async, RUNS, start_bare, process_time, backend=loop)
            self._single[loop].add(single, bare)
            self._many[loop].add(many, bare)
        if find_spec("taskiq"):
            single, _ = anyio.run(measure_ours)
            self._taskiq.add(single, asyncio.run(clocked_async(RUNS, start_taskiq, process_time)))


async def measure_ours() -> tuple[float, float]:
    """Return the runs a second by `launch_task` and by `launch_many`, each awaited."""
    async with AnyIOBackend() as backend:

        async def singly() -> None:
            for handle in [await backend.launch_task(nothing) for _ in range(RUNS)]:
                await handle.result()

        async def at_once() -> None:
            for handle in await backend.launch_many(nothing, [()] * RUNS):
                await handle.result()

        single = await clocked_async(RUNS, singly, process_time)
        return single, await clocked_async(RUNS, at_once, process_time)


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
        results = [BareResult() for _ in range(RUNS)]
        for result in results:
            group.start_soon(result.run)
        for result in results:
            await result.result()


async def start_taskiq() -> None:
    """Start and await as many on taskiq's broker in memory, which would else keep a hundred results."""
    taskiq: Any = import_module("taskiq")
    broker = taskiq.InMemoryBroker(max_stored_results=RUNS)
    noop = broker.task(task_name="benchmarks.nothing")(nothing)
    await broker.startup()
    try:
        for each in [await noop.kiq() for _ in range(RUNS)]:
            await each.wait_result(check_interval=0.001)
    finally:
        await broker.shutdown()


def _against_bare(ours: str, loop: str) -> Comparison:
    name = f"{RUNS:,} in process on {loop}, awaited"
    return Comparison(name=name, ours=ours, theirs="bare start_soon", aim=0.6)
