"""arq: two worker processes, which look for jobs and their clients for results every few milliseconds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import ResultNotFound

from benchmarks.peers import CHUNK, REDIS_URL
from benchmarks.processes import WAIT, program

SETTINGS = RedisSettings.from_dsn(os.environ[REDIS_URL])
# Half a second each, unless told otherwise.
POLL = 0.005


async def noop(_: Any) -> None:
    """Do nothing."""


class WorkerSettings:
    """What arq's command line reads."""

    functions = (noop,)
    redis_settings = SETTINGS
    max_jobs = 100
    poll_delay = POLL
    keep_result = 600


class Arq:
    """A worker is one process, so there are two."""

    name = "arq"

    def workers(self) -> Sequence[Sequence[str]]:
        return [[program("arq"), "benchmarks.peer_arq.WorkerSettings"]] * 2

    async def open(self) -> None:
        self._pool: Any = await create_pool(SETTINGS)

    async def send(self, count: int) -> None:
        await self._sent(count)

    async def send_and_collect(self, count: int) -> None:
        for each in await self._sent(count):
            await _result(each)

    async def _sent(self, count: int) -> list[Any]:
        sent: list[Any] = []
        for start in range(0, count, CHUNK):
            jobs = (self._pool.enqueue_job("noop") for _ in range(min(CHUNK, count - start)))
            sent += await asyncio.gather(*jobs)
        return sent

    async def close(self) -> None:
        await self._pool.close()


async def _result(job: Any) -> object:
    try:
        return await job.result(timeout=WAIT, poll_delay=POLL)
    except ResultNotFound:
        # It looks for the result first and in the queue then, and between the two the job may end.
        return await job.result(timeout=WAIT, poll_delay=POLL)


def make() -> Arq:
    """Return the peer."""
    return Arq()
