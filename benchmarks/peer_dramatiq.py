"""dramatiq on Redis: results in Redis, two worker processes of eight threads, as it comes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import dramatiq
import dramatiq.brokers.redis
import dramatiq.results.backends

from benchmarks.peers import REDIS_URL
from benchmarks.processes import WAIT, program

URL = os.environ[REDIS_URL]
library: Any = dramatiq  # partly typed
results = library.results.backends.RedisBackend(url=URL)
broker = library.brokers.redis.RedisBroker(url=URL)
broker.add_middleware(library.results.Results(backend=results))
library.set_broker(broker)


def do_nothing() -> None:
    """Do nothing."""


noop = library.actor(do_nothing, store_results=True)


class Dramatiq:
    """Its client blocks, and a result is waited for in Redis."""

    name = "dramatiq"

    def workers(self) -> Sequence[Sequence[str]]:
        return [[program("dramatiq"), "--processes", "2", "benchmarks.peer_dramatiq"]]

    async def open(self) -> None:
        broker.flush_all()

    async def send(self, count: int) -> None:
        for _ in range(count):
            noop.send()

    async def send_and_collect(self, count: int) -> None:
        sent = [noop.send() for _ in range(count)]
        for each in sent:
            each.get_result(backend=results, block=True, timeout=int(WAIT * 1000))

    async def close(self) -> None:
        broker.client.connection_pool.disconnect()


def make() -> Dramatiq:
    """Return the peer."""
    return Dramatiq()
