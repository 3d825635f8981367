"""Runs on Celery: `CeleryBackend` beside the same app used by hand, on the same worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.figures import Comparison, clocked, clocked_async, percentile
from benchmarks.noops import idle, noop
from benchmarks.processes import WAIT
from taskservice import CeleryBackend, TaskService

if TYPE_CHECKING:
    from celery import Celery

    from taskservice import TaskBackend

__all__ = ["COLLECTED", "PACK", "OnCelery"]

MANY: Final = 10_000
LOOP: Final = 1_000
COLLECTED: Final = 3_000
PACK: Final = 50
TRIPS: Final = 300


class OnCelery:
    """Everything that is measured against one app and the worker behind it.

    ``single`` and ``packed`` are what was collected a second in the last round.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._noop: Any = app.tasks[noop.name]
        self._idle: Any = app.tasks[idle.name]
        self._many = Comparison(
            name=f"{MANY:,} sent", ours="launch_many", theirs="loop of task.delay", aim=10
        )
        self._one = Comparison(
            name="sent one after another", ours="launch_task", theirs="task.delay", aim=0.95
        )
        self._trips = {
            percent: Comparison(
                name=f"round trip p{percent}", ours="result()", theirs="get()", aim=1.05, unit="ms"
            )
            for percent in (50, 99)
        }
        self.single = self.packed = 0.0

    def comparisons(self) -> list[Comparison]:
        return [self._one, *self._trips.values(), self._many]

    async def round(self, number: int) -> None:
        """Measure every way once; who goes first changes from round to round."""
        async with TaskService(CeleryBackend(self._app)) as service:
            await self._send(service.backend, first=number % 2 == 0)
            await self._collect(service)
            await self._travel(service.backend)

    async def _send(self, backend: TaskBackend, *, first: bool) -> None:
        def loop() -> None:
            for _ in range(LOOP):
                self._idle.delay()

        async def singly() -> None:
            for _ in range(LOOP):
                await backend.launch_task(idle)

        before = clocked(LOOP, loop) if first else 0.0
        many = await clocked_async(MANY, lambda: backend.launch_many(idle, [()] * MANY))
        single = await clocked_async(LOOP, singly)
        delayed = before or clocked(LOOP, loop)
        self._many.add(many, delayed)
        self._one.add(single, delayed)

    async def _collect(self, service: TaskService) -> None:
        async def ours(per_message: int) -> None:
            handles = await service.launch_many(noop, [()] * COLLECTED, per_message=per_message)
            async for handle in service.as_completed(handles):
                await handle.result(WAIT)

        self.single = await clocked_async(COLLECTED, lambda: ours(1))
        self.packed = await clocked_async(COLLECTED, lambda: ours(PACK))

    async def _travel(self, backend: TaskBackend) -> None:
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(TRIPS):
            started = time.perf_counter()
            await (await backend.launch_task(noop)).result(WAIT)
            between = time.perf_counter()
            self._noop.delay().get(timeout=WAIT)
            theirs.append(time.perf_counter() - between)
            ours.append(between - started)
        for percent, comparison in self._trips.items():
            comparison.add(percentile(ours, percent) * 1000, percentile(theirs, percent) * 1000)
