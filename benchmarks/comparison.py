"""The service beside Celery by hand, taskiq, dramatiq and arq on the same Redis: five figures of each.

In a round each one in turn is started, measured and ended, so that whatever else the machine does hits
them alike.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import redis

from benchmarks.figures import percentile
from benchmarks.peers import REDIS_URL, installed_peers
from benchmarks.processes import ended, started

if TYPE_CHECKING:
    from benchmarks.peers import Peer

__all__ = ["FIGURES", "all_peers", "measure_round"]

ENQUEUED: Final = 1000
COLLECTED: Final = 1000
ONE_BY_ONE: Final = 100
WARM: Final = 50
FIGURES: Final = {
    "enqueue": ("sent, no worker running", "/s"),
    "end_to_end": ("sent and collected", "/s"),
    "p50": ("one after another, p50", "ms"),
    "p95": ("one after another, p95", "ms"),
    "start_up": ("from the worker's start to the first result", "s"),
    "memory": ("the workers' memory, their own and shared in parts", "MB"),
}


def all_peers() -> tuple[list[Peer], list[str]]:
    """Return the service and the others that are installed, and the names of those that are not."""
    found, missing = installed_peers()
    return [import_module("benchmarks.peer_service").make(), *found], missing


def measure_round(peers: Sequence[Peer]) -> dict[str, dict[str, float]]:
    """Measure every figure of each once; return them by the peer's name."""
    return {peer.name: anyio.run(_measure, peer) for peer in peers}


async def _measure(peer: Peer) -> dict[str, float]:
    _forget_all()
    await peer.open()
    try:
        found = {"enqueue": await _rate(peer.send, ENQUEUED)}
        _forget_all()
        began = time.perf_counter()
        with _workers(peer) as processes:
            await peer.send_and_collect(1)
            found["start_up"] = time.perf_counter() - began
            await peer.send_and_collect(WARM)
            spans = [await _span(peer) for _ in range(ONE_BY_ONE)]
            found["p50"], found["p95"] = (percentile(spans, at) * 1000 for at in (50, 95))
            found["end_to_end"] = await _rate(peer.send_and_collect, COLLECTED)
            found["memory"] = sum(map(_memory, processes)) / 1e6
        return found
    finally:
        await peer.close()


async def _rate(act: object, count: int) -> float:
    began = time.perf_counter()
    await act(count)  # type: ignore[operator] # a bound method of a protocol
    return count / (time.perf_counter() - began)


async def _span(peer: Peer) -> float:
    began = time.perf_counter()
    await peer.send_and_collect(1)
    return time.perf_counter() - began


def _forget_all() -> None:
    with redis.Redis.from_url(os.environ[REDIS_URL]) as client:
        client.flushall()


@contextmanager
def _workers(peer: Peer) -> Iterator[list[subprocess.Popen[bytes]]]:
    # The first result tells that they are up: waiting for anything else would be counted.
    made = started(peer.workers(), **{REDIS_URL: os.environ[REDIS_URL]})
    try:
        yield made
    finally:
        ended(made)


def _memory(leader: subprocess.Popen[bytes]) -> float:
    """Return the bytes of a process and its descendants; what several share counts in equal parts."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if os.getpgid(int(process.name)) == leader.pid:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total
