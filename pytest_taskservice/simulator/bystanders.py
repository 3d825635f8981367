"""Threads that nobody counts, and whether one is at work: it gets real time before virtual time leaps.

A test's own threads, and those of libraries such as aiosqlite, hand over what they bring when they are done.
One that is found in the same place again and again is blocked there, and has nothing to do.

Leans on ``sys._current_frames``, ``threading._DummyThread`` and ``threading._dangling``, which holds a thread
to its end: ``enumerate`` has let go of it a moment before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from pytest_taskservice.simulator.substitutes import real_monotonic, real_sleep

__all__ = ["Bystanders"]

_TICK = 0.0005
_LOOKS = 4
"""How often in a row a thread is found in the same place if it is blocked there."""
_PATIENCE = 10.0
"""Real seconds of a world that threads get; some work for ever."""

# Of a thread that was not made in Python it is never known whether it has ended.
_NotOurs = threading._DummyThread  # noqa: SLF001 - listed above
_threads: WeakSet[Any] = threading._dangling  # type: ignore[attr-defined] # noqa: SLF001 - listed above


class Bystanders:
    """The threads that have begun since this was made, but for those that are ``waiting``."""

    def __init__(self, waiting: Callable[[], set[int]]) -> None:
        self.waiting = waiting
        """Returns the numbers of threads of which it is known that they wait in the world."""
        # Not their numbers, which the next thread may get.
        self._strangers = WeakSet(threading.enumerate())
        self._places: dict[int, Any] = {}
        self._looks = 0
        self._patience = _PATIENCE

    def let_work(self) -> None:
        """Wait until each of them has ended, waits in the world or stands still."""
        if len(_threads) < 2:
            return
        looks = 0
        while looks < _LOOKS and self._patience > 0:
            places = self._look()
            if not places:
                return
            looks = looks + 1 if places == self._places else 0
            self._places = places
            before = real_monotonic()
            real_sleep(_TICK)
            self._patience -= real_monotonic() - before if looks == 0 else 0

    def look_anew(self) -> None:
        """Take it that they have something to do from now on."""
        self._looks = 0

    def at_work(self) -> bool:
        """Return whether one of them does anything; whoever hears yes asks again in a tick."""
        if len(_threads) < 2 or self._looks >= _LOOKS or self._patience <= 0:
            return False
        places = self._look()
        if not places:
            return False
        self._looks = self._looks + 1 if places == self._places else 0
        self._places = places
        self._patience -= _TICK if self._looks == 0 else 0
        return True

    def _look(self) -> dict[int, Any]:
        """Return where each thread is that is not known to wait."""
        mine = [thread for thread in list(_threads) if thread.is_alive() and thread not in self._strangers]
        if not mine:
            return {}
        others = {threading.get_ident(), *self.waiting()}
        frames = sys._current_frames()  # noqa: SLF001 - listed above
        return {
            thread.ident: object() if _computes(thread) else _place(frames.get(thread.ident))
            for thread in mine
            if thread.ident not in others and (thread.ident in frames or type(thread) is not _NotOurs)
        }


def _computes(thread: Any) -> bool:
    """Return whether a thread is on a processor or a disk, where the system tells: in C its place stays."""
    try:
        with open(f"/proc/self/task/{thread.native_id}/stat", "rb") as stat:  # noqa: PTH123 - a hot path
            return stat.read().rpartition(b") ")[2][:1] in b"RD"
    except OSError:
        return False


def _place(frame: Any) -> Any:
    # One that has none is about to end, which it does not do while others keep Python busy.
    return object() if frame is None else (id(frame), frame.f_lasti)
