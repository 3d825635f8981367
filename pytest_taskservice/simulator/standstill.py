"""Threads that the event loop of a task waits for: time stands still while one of them is at work.

One that waits in the simulation is not at work. One that is for long has something else to wait for. Of a
thread that nobody has counted, as aiosqlite's, it is looked whether it does anything while a loop waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_taskservice.simulator.substitutes import real_monotonic, real_sleep

if TYPE_CHECKING:
    from pytest_taskservice.simulator.bystanders import Bystanders
    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["Errand", "Errands"]

_TICK = 0.0005
_PATIENCE = 10.0
"""Real seconds for which time stands still for one thread."""
_TELLING = 0.1
"""Real seconds that one has to tell its loop that it is done; the loop may be gone."""

_now = real_monotonic


class Errand:
    """One call that a loop has in a thread, from its launch until the loop sees what it brought."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self.thread: int | None = None
        """Where it runs, once it does."""
        self.until: float | None = None
        """The real instant from which on nobody stands still for it."""

    def run(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` as it runs in the thread."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.thread = threading.get_ident()
            try:
                return function(*args, **kwargs)
            finally:
                self.thread, self.until = None, _now() + _TELLING

        return call

    def end(self, *_: object) -> None:
        """Count it no longer."""
        self._errands.end(self)


class _LoopWait:
    """One wait of an event loop, for whatever comes first."""

    def __init__(self, ready: Callable[[], bool], answers_are_awaited: Callable[[], bool]) -> None:
        self.ready = ready
        self.answers_are_awaited = answers_are_awaited
        self.is_woken = False


class Errands:
    """The calls in threads of all tasks of one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._open: dict[Errand, None] = {}
        self._loops: dict[_LoopWait, None] = {}
        self.bystanders: Bystanders | None = None
        """Who knows of all threads of the test."""

    def begin(self) -> Errand:
        """Count one more."""
        errand = Errand(self)
        self._open[errand] = None
        self._count()
        return errand

    def end(self, errand: Errand) -> None:
        """Count one less."""
        self._open.pop(errand, None)
        self._count()

    def wait(
        self, ready: Callable[[], bool], timeout: float | None, answers_are_awaited: Callable[[], bool]
    ) -> None:
        """Wait in the simulation as an event loop does, which any thread, or a socket, may wake."""
        if self.bystanders is not None:
            self.bystanders.look_anew()
        waiting = _LoopWait(ready, answers_are_awaited)
        self._loops[waiting] = None
        self._count()
        try:
            self._simulation.wait(ready, timeout=timeout, what="an event loop in a task")
        finally:
            del self._loops[waiting]
            self._count()

    def _count(self) -> None:
        self._simulation.flying = len(self._open) + len(self._loops)

    def let_work(self, is_due: Callable[[], bool], waiting: Callable[[], set[int]]) -> bool:
        """Wait for real while a thread is at work; return whether there is something to do by then.

        ``waiting`` says which threads wait in the simulation.
        """
        while not is_due():
            if self._wakes_loops():
                return True
            if not self._at_work(waiting()) and not self._somebody_works():
                return False
            real_sleep(_TICK)
        return True

    def _wakes_loops(self) -> bool:
        # Once each: one whose process is stopped, or gone, does not go on.
        found = [each for each in self._loops if not each.is_woken and each.ready()]
        for each in found:
            each.is_woken = True
            # Who waits is asked after an event: this is one.
            self._simulation.after(0.0, _nothing)
        return bool(found)

    def _somebody_works(self) -> bool:
        if any(each.answers_are_awaited() for each in self._loops if not each.is_woken):
            return True
        return bool(self._loops) and self.bystanders is not None and self.bystanders.at_work()

    def _at_work(self, waiting: set[int]) -> bool:
        now, found = _now(), False
        for errand in tuple(self._open):
            if errand.thread in waiting:
                errand.until = None
                continue
            if errand.until is None:
                errand.until = now + _PATIENCE
            found = found or now < errand.until
        return found


def _nothing() -> None:
    """Be an event."""
