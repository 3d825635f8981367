"""Threads that the event loop of a task waits for: time stands still while one of them is at work.

One that waits in the simulation is not at work. One that is for long has something else to wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_taskservice.simulator.substitutes import real_monotonic, real_sleep

if TYPE_CHECKING:
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


class Errands:
    """The calls in threads of all tasks of one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._open: dict[Errand, None] = {}

    def begin(self) -> Errand:
        """Count one more."""
        errand = Errand(self)
        self._open[errand] = None
        self._simulation.flying = len(self._open)
        return errand

    def end(self, errand: Errand) -> None:
        """Count one less."""
        self._open.pop(errand, None)
        self._simulation.flying = len(self._open)

    def let_work(self, is_due: Callable[[], bool], waiting: Callable[[], set[int]]) -> bool:
        """Wait for real while a thread is at work; return whether there is something to do by then.

        ``waiting`` says which threads wait in the simulation.
        """
        while not is_due():
            if not self._at_work(waiting()):
                return False
            real_sleep(_TICK)
        return True

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
