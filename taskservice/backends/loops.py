"""A way back into an event loop from a thread, which the thread never waits on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["LoopNotifier", "LoopNotifiers", "current_notifier", "on_trio"]

LoopNotifier = Callable[[Callable[[], object]], None]
"""Has the loop call a function soon. A loop that is gone is ignored: nobody waits there."""


def current_notifier() -> LoopNotifier:
    """Return a notifier for the running loop, asyncio's or trio's; cheap enough to call per wait.

    ``anyio.from_thread`` would make the thread wait until the loop has run the function, so one
    busy loop would hold up every other.
    """
    return _notifier(_scheduler())


class LoopNotifiers:
    """Notifiers that are the same object for as long as the same loop asks for one."""

    def __init__(self) -> None:
        self._last: tuple[object, LoopNotifier] = (None, _notify_nobody)

    def current(self) -> LoopNotifier:
        """Return a notifier for the running loop; see `current_notifier`."""
        loop = _running_loop()
        known, notify = self._last
        if loop is not known:
            notify = current_notifier()
            self._last = (loop, notify)
        return notify


def on_trio() -> bool:
    """Return whether the running event loop is trio's."""
    # Nobody runs trio who has not imported it.
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


_Scheduler = Callable[[Callable[[], object]], object]


def _notify_nobody(_: Callable[[], object]) -> None:
    """Nobody has asked yet."""


def _notifier(schedule: _Scheduler) -> LoopNotifier:
    def notify(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            schedule(function)

    return notify


def _scheduler() -> _Scheduler:
    loop = _running_loop()
    scheduler: _Scheduler = loop.run_sync_soon if on_trio() else loop.call_soon_threadsafe
    return scheduler


def _running_loop() -> Any:
    """Return trio's token or asyncio's loop."""
    if on_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    return asyncio.get_running_loop()
