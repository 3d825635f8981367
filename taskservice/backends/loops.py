"""A way back into an event loop from a thread, which the thread never waits on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress

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
        self._last: tuple[_Scheduler | None, LoopNotifier] = (None, _notify_nobody)

    def current(self) -> LoopNotifier:
        """Return a notifier for the running loop; see `current_notifier`."""
        schedule = _scheduler()
        known, notify = self._last
        if schedule != known:
            notify = _notifier(schedule)
            self._last = (schedule, notify)
        return notify


def on_trio() -> bool:
    """Return whether the running event loop is trio's."""
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
    return _trio_scheduler() or asyncio.get_running_loop().call_soon_threadsafe


def _trio_scheduler() -> _Scheduler | None:
    # Nobody runs trio who has not imported it.
    trio = sys.modules.get("trio")
    if trio is None:
        return None

    try:
        scheduler: _Scheduler = trio.lowlevel.current_trio_token().run_sync_soon
    except RuntimeError:
        return None
    return scheduler
