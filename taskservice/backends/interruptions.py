"""Runs of ``async`` functions under way in this process, and how to have one leave at its next await.

The worker's main process takes the wish. In a pool of threads the function is right here; a pool of
processes is told by a signal, with the run's id in memory that both share.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import deque
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["InterruptedRunError", "call_interruptibly", "interrupt", "interrupt_process", "listen_in_process"]

INTERRUPT: Final = signal.SIGUSR2
"""Not SIGUSR1, which is the pool's own, for its soft time limits."""
ID_BYTES: Final = 64

_running: dict[str, Callable[[], object]] = {}
# A run is seen to have started a moment before its function is here.
_early: Final[deque[str]] = deque(maxlen=100)
# Shared with the processes that are forked from this one.
_wanted: Final = mmap(-1, ID_BYTES)
_lock: Final = threading.Lock()


class InterruptedRunError(Exception):
    """The function left because it was told to; never leaves the back end."""


async def call_interruptibly(run_id: str, call: Callable[[], Awaitable[Any]]) -> Any:
    """Await ``call()`` on asyncio; `InterruptedRunError` if `interrupt` made it leave."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        _running[run_id] = lambda: loop.call_soon_threadsafe(scope.cancel)
        try:
            if run_id in _early:
                scope.cancel()
            return await call()
        finally:
            del _running[run_id]
    raise InterruptedRunError(run_id)


def interrupt(run_id: str) -> None:
    """Tell a run of this process to leave, now or as soon as its function is called."""
    _early.append(run_id)
    wake = _running.get(run_id)
    if wake is not None:
        wake()


def interrupt_process(pid: int, run_id: str) -> None:
    """Tell a run in a process that was forked from this one to leave; `ProcessLookupError` if it is gone."""
    with _lock:
        _wanted.seek(0)
        _wanted.write(run_id.encode().ljust(ID_BYTES, b"\0"))
        os.kill(pid, INTERRUPT)


def listen_in_process() -> None:
    """Have this process obey `interrupt_process`; for its main thread."""
    signal.signal(INTERRUPT, lambda *_: interrupt(_wanted[:].rstrip(b"\0").decode()))
