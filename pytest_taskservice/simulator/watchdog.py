"""What ends a task body that blocks in real time: no event can come as long as it holds the thread.

A thread looks now and then whether the same event still runs. If it has for too long, a signal interrupts
the owner's thread where it stands, a system call too, and the wait that let the event run raises. Signals
reach the main thread only: in any other a body may block for ever.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit

from pytest_taskservice.errors import SimulationBlockedError
from pytest_taskservice.simulator.core.fibers import current_fiber

if TYPE_CHECKING:
    from types import FrameType

    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["watched"]

# Neither asyncio, trio, billiard, faulthandler nor pytest-timeout want it, and unhandled it does nothing.
_SIGNAL = signal.SIGURG
_LOOKS = 8
_LINGER = 0.02
_DEBUGGERS = frozenset({"bdb", "pdb", "pudb", "pydevd", "IPython"})
_main = threading.main_thread().ident


@contextmanager
def watched(simulation: Simulation, seconds: float) -> Iterator[None]:
    """Let no event of ``simulation`` hold the calling thread for longer than ``seconds``, about."""
    if threading.get_ident() != _main:
        yield
        return
    watched = _Watched(simulation, seconds)
    before = signal.signal(_SIGNAL, watched.interrupt)
    _watchdog.look_after(watched)
    try:
        yield
    finally:
        _watchdog.leave()
        signal.signal(_SIGNAL, before)


class _Watchdog:
    """The thread that looks. Starting one is dear: it waits a while for the next simulation."""

    def __init__(self) -> None:
        self._watched: _Watched | None = None
        # The thread ends, aims and signals only while it holds this.
        self._changing = _thread.allocate_lock()
        self._bell = _thread.allocate_lock()
        self._bell.acquire()
        self._lives = False
        self._seconds = 0.0

    def look_after(self, watched: _Watched) -> None:
        with self._changing:
            sooner = watched.seconds < self._seconds
            self._watched, self._seconds = watched, watched.seconds
            if not self._lives:
                self._lives = True
                # Not threading's: who counts threads looks for those that could end a wait.
                _thread.start_new_thread(self._watch, ())
            elif sooner and self._bell.locked():
                self._bell.release()

    def leave(self) -> None:
        with self._changing:
            self._watched = None
            if self._bell.locked():
                self._bell.release()

    def _watch(self) -> None:
        looks = _Looks()
        while True:
            rest = _LINGER if self._watched is None else self._seconds / _LOOKS
            rung = self._bell.acquire(timeout=rest)
            with self._changing:
                if self._watched is None and not rung:
                    # Whoever forks next is not to be warned of a thread.
                    self._lives = False
                    return
                if looks.enough(None if rung else self._watched):
                    signal.pthread_kill(_main or 0, _SIGNAL)


class _Looks:
    """How often the same event was seen at work. It keeps nothing of what it looks at."""

    def __init__(self) -> None:
        self._at: object = None
        self._event = -1
        self._count = 0

    def enough(self, watched: _Watched | None) -> bool:
        """Look once more; return whether the event has taken too long."""
        if watched is None:
            self._at = None
            return False
        simulation = watched.simulation
        same = self._at is watched.token and simulation.busy and simulation.events == self._event
        self._at, self._event = watched.token, simulation.events
        self._count = self._count + 1 if same else 0
        if self._count < _LOOKS:
            return False
        self._count = 0
        return True


class _Watched:
    def __init__(self, simulation: Simulation, seconds: float) -> None:
        self.simulation = simulation
        self.seconds = seconds
        self.token = object()

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """End what runs, in the owner's thread."""
        simulation, fiber = self.simulation, current_fiber()
        if fiber is None or not simulation.busy or _is_debugged(frame):
            return
        job: Any = getattr(fiber.process, "job", None)
        who = "an event" if job is None else f"task {job}"
        simulation.failure = SimulationBlockedError(
            who, self.seconds, _place(frame), simulation.waiting_for()
        )
        # Nothing that the body catches: it ends here, and the test's own wait raises the failure.
        raise GreenletExit


def _is_debugged(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False


def _forked() -> None:
    global _watchdog  # noqa: PLW0603 - the thread has stayed behind
    _watchdog = _Watchdog()


_watchdog = _Watchdog()
os.register_at_fork(after_in_child=_forked)


def _place(frame: FrameType | None) -> str:
    """Return the innermost line that is no library's of Python's own."""
    innermost = frame
    while (
        frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in sys.stdlib_module_names
    ):
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
