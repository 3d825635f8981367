"""What a test has started beside its simulation, threads and processes: they get real time while it sleeps.

A test that looks again and again whether one of them is done, and sleeps in between, would else be through
all its virtual patience before that one has begun. A thread that is blocked, or that waits in the simulation,
has nothing to do; a process is given as long as the test sleeps.

Replaces ``subprocess.Popen.__init__`` and ``poll``, to know of processes. Leans on ``sys._current_frames``,
``threading._DummyThread`` and ``threading._dangling``, which holds a thread to its end: ``enumerate`` has let
go of it a moment before; ``multiprocessing.process._children``, which asking for waits for nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.substitutes import real_monotonic, real_sleep

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["Companions"]

_TICK = 0.0005
_LOOKS = 4
"""How often in a row a thread is found in the same place if it is blocked there."""
_PATIENCE = 10.0
"""Real seconds of a simulation that threads get; some work for ever."""
_LONGEST = 1.0
"""Real seconds of one sleep that processes get."""
_PATIENCE_WITH_PROCESSES = 60.0
_WITHOUT_A_LOOK = 0.005
_JUMP = 10.0
"""Real seconds that processes get at most before time goes on at once."""

_now = real_monotonic
# Of a thread that was not made in Python it is never known whether it has ended.
_NotOurs = threading._DummyThread  # noqa: SLF001 - listed above
_threads: WeakSet[Any] = threading._dangling  # type: ignore[attr-defined] # noqa: SLF001 - listed above
_init: Any = subprocess.Popen.__init__
_poll: Any = subprocess.Popen.poll


class Companions:
    """Stands for the simulation wherever its owner sleeps; implements ``Sleeper``."""

    def __init__(self, simulation: Simulation) -> None:
        self.random = simulation.random
        self.monotonic = simulation.monotonic
        self._simulation = simulation
        self._owner = threading.get_ident()
        # Not their numbers, which the next thread may get.
        self._strangers = WeakSet(threading.enumerate())
        self._processes: WeakSet[Any] = WeakSet()
        self._children = WeakSet(_children())
        """Those of multiprocessing that are from before, as the pool of a session."""
        self._places: dict[int, Any] = {}
        self._looks = 0
        self._patience = _PATIENCE
        self._patience_with_processes = _PATIENCE_WITH_PROCESSES
        self.waiting: Callable[[], set[int]] = set
        """Returns the threads that wait in the simulation."""

    def install(self, patches: Patches) -> None:
        """Hear of processes until ``patches`` are undone."""
        companions = self

        def init(process: Any, *args: Any, **options: Any) -> None:
            _init(process, *args, **options)
            companions._processes.add(process)

        def poll(process: Any) -> Any:
            code = _poll(process)
            if code is None:
                # One from before the simulation, whose end is waited for now.
                companions._processes.add(process)
            return code

        patches.set(subprocess.Popen, "__init__", init)
        patches.set(subprocess.Popen, "poll", poll)

    def sleep(self, seconds: float) -> None:
        """Sleep in the simulation, after giving real time to whoever needs it."""
        # Who sleeps for no time only gives way; Celery does while it collects a result.
        if seconds > 0 and current_fiber() is None and threading.get_ident() == self._owner:
            self._let_threads_work()
            if self._processes or _children():
                self._let_processes_work(seconds)
        self._simulation.sleep(seconds)

    def let_work(self, seconds: float, over: Callable[[], bool]) -> None:
        """Give real time to threads and processes before ``seconds`` pass at once, until it is ``over``."""
        self._let_threads_work()
        end = _now() + min(seconds, _JUMP)
        while self._patience_with_processes > 0 and _now() < end and not over() and self._has_processes():
            real_sleep(_WITHOUT_A_LOOK)
            self._patience_with_processes -= _WITHOUT_A_LOOK

    def read(self) -> None:
        """Let a moment pass before a reading, if there has been one at this instant."""
        if threading.get_ident() == self._owner:
            self._simulation.read()

    def look_anew(self) -> None:
        """Take it that threads have something to do from now on."""
        self._looks = 0

    def at_work(self) -> bool:
        """Return whether one of the test's threads does anything; whoever hears yes asks again in a tick."""
        if len(_threads) < 2 or self._looks >= _LOOKS or self._patience <= 0:
            return False
        places = self._look()
        if not places:
            return False
        self._looks = self._looks + 1 if places == self._places else 0
        self._places = places
        self._patience -= _TICK if self._looks == 0 else 0
        return True

    def _let_processes_work(self, seconds: float) -> None:
        if self._patience_with_processes <= 0:
            return
        if not self._has_processes():
            self._processes.clear()
            return
        moment = min(seconds, _LONGEST)
        self._patience_with_processes -= moment
        real_sleep(moment)

    def _has_processes(self) -> bool:
        if any(_runs(process) for process in list(self._processes)):
            return True
        return any(child not in self._children and child.is_alive() for child in _children())

    def _let_threads_work(self) -> None:
        """Wait until each of the test's threads has ended, waits in the simulation or stands still."""
        if len(_threads) < 2:
            return
        looks = 0
        while looks < _LOOKS and self._patience > 0:
            places = self._look()
            if not places:
                return
            looks = looks + 1 if places == self._places else 0
            self._places = places
            before = _now()
            real_sleep(_TICK)
            self._patience -= _now() - before if looks == 0 else 0

    def _look(self) -> dict[int, Any]:
        """Return where each thread is that is not known to wait."""
        mine = [thread for thread in list(_threads) if thread.is_alive() and thread not in self._strangers]
        if not mine:
            return {}
        others = {self._owner, *self.waiting()}
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


def _children() -> list[Any]:
    """Return the children that multiprocessing, if anybody uses it, has started."""
    process: Any = sys.modules.get("multiprocessing.process")
    return list(process._children) if process is not None else []  # noqa: SLF001 - listed above


def _runs(process: Any) -> bool:
    if process.returncode is not None:
        return False
    if not hasattr(os, "waitid"):
        return _poll(process) is None
    try:
        # Only looked at: an event loop may wait for its end, too.
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _place(frame: Any) -> Any:
    # One that has none is about to end, which it does not do while others keep Python busy.
    return object() if frame is None else (id(frame), frame.f_lasti)
