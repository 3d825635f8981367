"""What a test has started beside its simulation, threads and processes: they get real time while it sleeps.

A test that looks again and again whether one of them is done, and sleeps in between, would else be through
all its virtual patience before that one has begun. A process is given as long as the test sleeps.

Replaces ``subprocess.Popen.__init__`` and ``poll``, to know of processes. Leans on
``multiprocessing.process._children``, which asking for waits for nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from pytest_taskservice.simulator.bystanders import Bystanders
from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.substitutes import real_monotonic, real_sleep

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["Companions"]

_LONGEST = 1.0
"""Real seconds of one sleep that processes get."""
_PATIENCE_WITH_PROCESSES = 60.0
_WITHOUT_A_LOOK = 0.005
_JUMP = 10.0
"""Real seconds that processes get at most before time goes on at once."""

_now = real_monotonic
_init: Any = subprocess.Popen.__init__
_poll: Any = subprocess.Popen.poll


class Companions:
    """Stands for the simulation wherever its owner sleeps; implements ``Sleeper``."""

    def __init__(self, simulation: Simulation) -> None:
        self.random = simulation.random
        self.monotonic = simulation.monotonic
        self._simulation = simulation
        self._owner = threading.get_ident()
        self.threads = Bystanders(self._waiting_with_owner)
        self._processes: WeakSet[Any] = WeakSet()
        self._children = WeakSet(_children())
        """Those of multiprocessing that are from before, as the pool of a session."""
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
            self.threads.let_work()
            if self._processes or _children():
                self._let_processes_work(seconds)
        self._simulation.sleep(seconds)

    def let_work(self, seconds: float, over: Callable[[], bool]) -> None:
        """Give real time to threads and processes before ``seconds`` pass at once, until it is ``over``."""
        self.threads.let_work()
        end = _now() + min(seconds, _JUMP)
        while self._patience_with_processes > 0 and _now() < end and not over() and self._has_processes():
            real_sleep(_WITHOUT_A_LOOK)
            self._patience_with_processes -= _WITHOUT_A_LOOK

    def read(self) -> None:
        """Let a moment pass before a reading, if there has been one at this instant."""
        if threading.get_ident() == self._owner:
            self._simulation.read()

    def _waiting_with_owner(self) -> set[int]:
        return {self._owner, *self.waiting()}

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
