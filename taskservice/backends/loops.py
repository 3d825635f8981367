"""A way back into an event loop from a thread, which the thread never waits on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress

__all__ = ["LoopNotifier", "current_notifier", "on_trio"]

LoopNotifier = Callable[[Callable[[], object]], None]
"""Has the loop call a function soon. A loop that is gone is ignored: nobody waits there."""


def current_notifier() -> LoopNotifier:
    """Return a notifier for the running loop, asyncio's or trio's; cheap enough to call per wait.

    ``anyio.from_thread`` would make the thread wait until the loop has run the function, so one
    busy loop would hold up every other.
    """
    schedule = _trio_scheduler() or asyncio.get_running_loop().call_soon_threadsafe

    def notify(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            schedule(function)

    return notify


def on_trio() -> bool:
    """Return whether the running event loop is trio's."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


def _trio_scheduler() -> Callable[[Callable[[], object]], object] | None:
    # Nobody runs trio who has not imported it.
    trio = sys.modules.get("trio")
    if trio is None:
        return None

    try:
        scheduler: Callable[[Callable[[], object]], object] = trio.lowlevel.current_trio_token().run_sync_soon
    except RuntimeError:
        return None
    return scheduler
