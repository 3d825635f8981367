"""How an event loop waits for a simulated server.

A loop that keeps virtual time waits by its own timers. In a loop in real time, on the simulation's own
thread, the simulation goes on while the loop has nothing to do. A loop on another thread waits for real.

Leans on asyncio's ``_set_running_loop``, ``_enter_task`` and ``_leave_task``, which it offers to makers of
loops; and reads ``_ready`` and ``_scheduled`` of its own loop: one without them passes for idle.
"""
# ruff: noqa: SLF001 - these private parts are listed above

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_taskservice.simulator.redis.line import Line
    from pytest_taskservice.simulator.redis.simulated import SimulatedRedis

__all__ = ["spend", "travel", "wait"]

_PACE = 0.001
"""Real seconds between two looks at the simulation, while a loop in real time has something else to do."""


async def travel(home: SimulatedRedis) -> None:
    """Let a round trip's time pass, and the loop's other tasks come in between."""
    await spend(home, None)


async def spend(home: SimulatedRedis, seconds: float | None) -> None:
    """Let ``seconds`` pass, or a round trip's time, and the loop's other tasks come in between."""
    loop = asyncio.get_running_loop()
    if not home.owned():
        await asyncio.sleep(0)
    elif _virtual(home, loop):
        await asyncio.sleep(home.latency() if seconds is None else seconds)
    else:
        with _outside(loop):
            if seconds is None:
                home.travel()
            else:
                home.spend(seconds)
        await asyncio.sleep(0)


async def wait(home: SimulatedRedis, line: Line, seconds: float | None) -> bool:
    """Wait until there is something to read, for ``seconds`` of the loop's time; return whether there is."""
    loop = asyncio.get_running_loop()
    if home.owned() and not _virtual(home, loop):
        return await _wait_beside(home, line, seconds)
    end = None if seconds is None else loop.time() + seconds
    while not line.ready():
        here = loop.time()
        blocked = None if line.deadline is None else here + line.deadline - home.simulation.monotonic()
        ends = [instant for instant in (end, blocked) if instant is not None]
        if await _notified(line, None if not ends else max(0.0, min(ends) - here)):
            continue
        if blocked is not None and blocked <= min(ends):
            line.end_wait()
        else:
            return False
    return True


async def _notified(line: Line, seconds: float | None) -> bool:
    """Wait until something comes in; return whether it did within ``seconds``."""
    loop = asyncio.get_running_loop()
    thread = threading.get_ident()
    news: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if threading.get_ident() == thread:
            _settle(news)
        else:
            loop.call_soon_threadsafe(_settle, news)

    line.notify = tell
    try:
        if line.ready():
            return True
        done, _ = await asyncio.wait([news], timeout=seconds)
        return bool(done)
    finally:
        line.notify = None


def _settle(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)


async def _wait_beside(home: SimulatedRedis, line: Line, seconds: float | None) -> bool:
    """Wait in virtual time, in a loop in real time: fast when it is idle, else in step with it."""
    loop = asyncio.get_running_loop()
    simulation = home.simulation
    end = None if seconds is None else simulation.monotonic() + seconds
    while not line.ready():
        now = simulation.monotonic()
        if end is not None and now >= end:
            return False
        if line.deadline is not None and now >= line.deadline:
            line.end_wait()
            continue
        ends = [instant for instant in (end, line.deadline) if instant is not None]
        left = min(ends) - now if ends else None
        busy = _busy(home, loop)
        begin = loop.time()
        await asyncio.sleep(_PACE if busy else 0)
        step = loop.time() - begin if busy else left
        with _outside(loop):
            home.wait(line, step if left is None or step is None else min(step, left))
    return True


def _busy(home: SimulatedRedis, loop: Any) -> bool:
    """Return whether a loop has anything else to wait for, as far as it can be seen."""
    return home.has_threads() or bool(getattr(loop, "_ready", ())) or bool(getattr(loop, "_scheduled", ()))


def _virtual(home: SimulatedRedis, loop: asyncio.AbstractEventLoop) -> bool:
    # Whatever loop it is: one in virtual time tells the simulation's own.
    return loop.time() == home.simulation.monotonic()


@contextmanager
def _outside(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Leave a running loop for a while: what else runs on this thread meanwhile may have one of its own."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.tasks._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if task is not None:
            asyncio.tasks._enter_task(loop, task)
