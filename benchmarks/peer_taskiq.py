"""taskiq with taskiq-redis: a list as queue, results in Redis, two worker processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.noops import nothing
from benchmarks.peers import CHUNK, REDIS_URL
from benchmarks.processes import WAIT, program

URL = os.environ[REDIS_URL]
broker: Any = ListQueueBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=600))
noop: Any = broker.task(task_name="benchmarks.noop")(nothing)
# It asks for a result every 0.2 seconds unless told otherwise.
POLL = 0.002


class Taskiq:
    """One after the other is asked for: a result that is there is there at once."""

    name = "taskiq"

    def workers(self) -> Sequence[Sequence[str]]:
        argv = [program("taskiq"), "worker", "--workers", "2", "--log-level", "ERROR"]
        return [[*argv, "benchmarks.peer_taskiq:broker"]]

    async def open(self) -> None:
        await broker.startup()

    async def send(self, count: int) -> None:
        await _sent(count)

    async def send_and_collect(self, count: int) -> None:
        for each in await _sent(count):
            await each.wait_result(check_interval=POLL, timeout=WAIT)

    async def close(self) -> None:
        await broker.shutdown()


async def _sent(count: int) -> list[Any]:
    sent: list[Any] = []
    for start in range(0, count, CHUNK):
        sent += await asyncio.gather(*(noop.kiq() for _ in range(min(CHUNK, count - start))))
    return sent


def make() -> Taskiq:
    """Return the peer."""
    return Taskiq()
