"""Celery by hand: the settings of ours, its own worker with two processes, `delay` and `get`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import REDIS_URL
from benchmarks.processes import WAIT, program
from taskservice import Settings
from taskservice.backends.app import build_bare_app

# A queue of its own, since the service's worker is up as well.
QUEUE = "by_hand"
app = build_bare_app(Settings(redis_url=os.environ[REDIS_URL], default_queue=QUEUE))


def do_nothing() -> None:
    """Do nothing."""


define: Any = app.task(name="benchmarks.by_hand")
noop = define(do_nothing)


class ByHand:
    """Its client blocks, as `AsyncResult.get` does."""

    name = "Celery"

    def workers(self) -> Sequence[Sequence[str]]:
        argv = [program("celery"), "-A", "benchmarks.peer_celery", "worker", "-P", "prefork", "-c", "2"]
        return [[*argv, "--loglevel", "WARNING", "--queues", QUEUE]]

    async def open(self) -> None:
        app.finalize()

    async def send(self, count: int) -> None:
        for _ in range(count):
            noop.delay()

    async def send_and_collect(self, count: int) -> None:
        results = [noop.delay() for _ in range(count)]
        for result in results:
            result.get(timeout=WAIT)

    async def close(self) -> None:
        app.close()


def make() -> ByHand:
    """Return the peer."""
    return ByHand()
