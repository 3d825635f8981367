"""What ends a task body that blocks in real time: no event can come as long as it holds the thread.

A thread looks now and then whether the same event still runs. If it has for too long, a signal interrupts
the owner's thread where it stands, a system call too, and the wait that let the event run raises. Signals
reach the main thread only: in any other a body may block for ever.
"""

from __future__ import annotations

import _thread
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
_DEBUGGERS = frozenset({"bdb", "pdb", "pudb", "pydevd", "IPython"})
_main = threading.main_thread().ident


@contextmanager
def watched(simulation: Simulation, seconds: float) -> Iterator[None]:
    """Let no event of ``simulation`` hold the calling thread for longer than ``seconds``, about."""
    if threading.get_ident() != _main:
        yield
        return
    watchdog = _Watchdog(simulation, seconds)
    before = signal.signal(_SIGNAL, watchdog.interrupt)
    # Not threading's: who counts threads looks for those that could end a wait.
    _thread.start_new_thread(watchdog.watch, ())
    try:
        yield
    finally:
        watchdog.over.release()
        # The thread signals only while it holds this, and not once it is over.
        with watchdog.aiming:
            watchdog.ended = True
        signal.signal(_SIGNAL, before)


class _Watchdog:
    def __init__(self, simulation: Simulation, seconds: float) -> None:
        self.ended = False
        self.over = _thread.allocate_lock()
        self.over.acquire()
        self.aiming = _thread.allocate_lock()
        self._simulation = simulation
        self._seconds = seconds

    def watch(self) -> None:
        """Run in a thread until it is over."""
        simulation, looks, event = self._simulation, 0, -1
        while not self.over.acquire(timeout=self._seconds / _LOOKS):
            looks = looks + 1 if simulation.busy and simulation.events == event else 0
            event = simulation.events
            if looks >= _LOOKS:
                looks = 0
                with self.aiming:
                    if not self.ended:
                        signal.pthread_kill(_main or 0, _SIGNAL)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """End what runs, in the owner's thread."""
        simulation, fiber = self._simulation, current_fiber()
        if fiber is None or not simulation.busy or _is_debugged(frame):
            return
        job: Any = getattr(fiber.process, "job", None)
        who = "an event" if job is None else f"task {job.name}[{job.id}]"
        simulation.failure = SimulationBlockedError(
            who, self._seconds, _place(frame), simulation.waiting_for()
        )
        # Nothing that the body catches: it ends here, and the test's own wait raises the failure.
        raise GreenletExit


def _is_debugged(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False


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
