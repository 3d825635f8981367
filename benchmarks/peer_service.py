"""The task service: `launch_task` for each run, its own worker with two processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from benchmarks.noops import noop
from benchmarks.peers import CHUNK, REDIS_URL
from taskservice import CeleryBackend, Settings, TaskService, create_app

if TYPE_CHECKING:
    from taskservice.runs import TaskHandle

# A database of its own, since others' workers take from the same queue.
URL = f"{os.environ[REDIS_URL].rpartition('/')[0]}/7"


class Service:
    """Its client has as many launches under way as those of other asynchronous ones."""

    name = "taskservice"

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    def workers(self) -> Sequence[Sequence[str]]:
        code = (
            f"import os; os.environ.update(TASKSERVICE_REDIS_URL={URL!r}, "
            "TASKSERVICE_IMPORTS='benchmarks.noops'); from taskservice.cli import main; main()"
        )
        return [[sys.executable, "-c", code, "worker", "-P", "prefork", "-c", "2", "--loglevel", "WARNING"]]

    async def open(self) -> None:
        settings = Settings(redis_url=URL, imports=("benchmarks.noops",))
        backend = CeleryBackend(create_app(settings), settings=settings)
        self._service = await self._stack.enter_async_context(TaskService(backend))

    async def send(self, count: int) -> None:
        await self._sent(count)

    async def send_and_collect(self, count: int) -> None:
        for handle in await self._sent(count):
            await handle.result()

    async def close(self) -> None:
        await self._stack.aclose()

    async def _sent(self, count: int) -> list[TaskHandle]:
        sent: list[TaskHandle] = []

        async def launch() -> None:
            _, handle = await self._service.launch_task(noop)
            sent.append(handle)

        for start in range(0, count, CHUNK):
            async with anyio.create_task_group() as group:
                for _ in range(min(CHUNK, count - start)):
                    group.start_soon(launch)
        return sent


def make() -> Service:
    """Return the peer."""
    return Service()
