"""Waiting in real time for what another process does: bounded, and no longer than it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PROMPT", "eventually"]

PROMPT = 2.0


def eventually(condition: Callable[[], bool], *, within: float = PROMPT) -> bool:
    """Return whether ``condition`` comes to hold within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
