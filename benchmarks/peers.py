"""Celery by hand and other task queues on the same Redis: no-ops sent, run in workers, results collected.

Each one has two worker processes and is used as its documentation shows it; where a setting of its own
makes it faster at this, it has that setting, named in its module. Its workers run while it is measured
and no longer: one that polls would cost the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Final, Protocol

import anyio

from benchmarks.figures import clocked_async
from benchmarks.processes import running

__all__ = ["CHUNK", "REDIS_URL", "Peer", "installed_peers", "measure_peer", "peer_workers"]

REDIS_URL: Final = "BENCHMARK_REDIS_URL"
"""The environment variable that tells clients and workers of all peers where Redis is."""
CHUNK: Final = 100
"""How many messages an asynchronous client sends at once."""
_MODULES: Final = {
    "Celery": "peer_celery",
    "taskiq": "peer_taskiq",
    "dramatiq": "peer_dramatiq",
    "arq": "peer_arq",
}


class Peer(Protocol):
    """One other task queue."""

    name: str

    def workers(self) -> Sequence[Sequence[str]]:
        """Return the commands of its workers, two processes in all."""

    async def open(self) -> None:
        """Connect."""

    async def send(self, count: int) -> None:
        """Send ``count`` no-ops, and forget them."""

    async def send_and_collect(self, count: int) -> None:
        """Send ``count`` no-ops and wait for all their results."""

    async def close(self) -> None:
        """Disconnect."""


def installed_peers() -> tuple[list[Peer], list[str]]:
    """Return those that are installed, and the names of those that are not."""
    found: list[Peer] = []
    missing: list[str] = []
    for name, module in _MODULES.items():
        try:
            found.append(import_module(f"benchmarks.{module}").make())
        except ImportError:
            missing.append(name)
    return found, missing


def measure_peer(peer: Peer, count: int, *, warm: int = 20) -> float:
    """Return how many no-ops a second it sends and collects, its workers being up and warm."""

    async def measure() -> float:
        await peer.open()
        try:
            await peer.send_and_collect(warm)
            return await clocked_async(count, lambda: peer.send_and_collect(count))
        finally:
            await peer.close()

    with peer_workers(peer):
        return anyio.run(measure)


@contextmanager
def peer_workers(peer: Peer) -> Iterator[None]:
    """Have its workers run."""
    # The first results tell that they are up.
    with running(peer.workers(), lambda: True, **{REDIS_URL: os.environ[REDIS_URL]}):
        yield
