"""A seat: one event loop or thread of a world, at work or waiting."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable

__all__ = ["Limits", "Seat"]

_YEAR = 365 * 86_400.0


class Limits:
    """How much may happen while a test waits: ``moves`` of the clock, turns of a loop, and ``seconds``.

    ``work`` is how long, in real seconds, a thread or a loop may be at work while all others wait for it.
    """

    def __init__(self, *, moves: int = 1_000_000, seconds: float = 100 * _YEAR, work: float = 60.0) -> None:
        self.moves = moves
        self.seconds = seconds
        self.work = work


class Seat:
    """One loop or thread. It is at work unless it waits; ``deadline`` is the instant it waits for."""

    __slots__ = (
        "abandoned", "asked", "covered", "deadline", "error", "explain", "fail", "holding", "last", "name",
        "pending",
        "thread", "until_idle", "waiting", "wake",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        wake: Callable[[], None],
        pending: Callable[[], bool] | None = None,
        explain: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.name = name
        self.wake = wake
        self.pending = pending
        """Says that something for it is on its way, which it has not seen yet."""
        self.explain = explain
        self.fail: Callable[[Exception], None] | None = None
        """Hands it an error while it waits, where raising from the wait would break what stands above."""
        self.thread = threading.get_ident()
        self.deadline = math.inf
        self.waiting = False
        self.covered = False
        """A loop runs on this thread, and speaks for it."""
        self.holding = False
        """It waits for something real, such as a socket."""
        self.last = False
        """It goes on at its instant only when everybody else has done what is due by then."""
        self.until_idle = False
        self.abandoned = False
        """Nobody waits for it any more, so nobody need stand still for it."""
        self.error: Exception | None = None
        self.asked = False
        """It was woken to move the timeline, its thread's, or to help those who wait for it."""

    def stands_still(self) -> bool:
        """Return whether nothing comes of this seat unless time goes on."""
        if self.covered:
            return True
        if not self.waiting:
            return self.abandoned
        return not self.holding and not (self.pending is not None and self.pending())
