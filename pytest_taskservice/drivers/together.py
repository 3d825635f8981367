"""Doing several things at once, in threads that really race."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pytest_taskservice.errors import HarnessTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["at_once"]


def at_once(acts: Sequence[Callable[[], None]], *, timeout: float) -> None:
    """Do all of ``acts``, let loose together, and return when all are done, within ``timeout`` seconds."""
    gate = threading.Barrier(len(acts) + 1)

    def run(act: Callable[[], None]) -> None:
        gate.wait(timeout)
        act()

    threads = [threading.Thread(target=run, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    gate.wait(timeout)
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = sum(thread.is_alive() for thread in threads)
    if left:
        raise HarnessTimeoutError(
            f"{left} of {len(acts)} commands at once did not return within {timeout:g} s"
        )
