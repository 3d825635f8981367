"""A worker that a test makes itself, by ``app.Worker(...)`` or the command line's code, in a simulation.

Celery's own would poll, in real time, a broker that is none; one of the simulation's stands for it, for as
long as its thread would be held. Leans on ``WorkController.start``, ``stop`` and ``terminate``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from celery.worker.worker import WorkController

from pytest_taskservice.simulator.celery.worker import SimulatedWorker
from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["controllers_by"]

_Controller: Any = WorkController


@contextmanager
def controllers_by(
    serve: Callable[[Any, threading.Event], None], note: Callable[[Any], None]
) -> Iterator[None]:
    """Have ``serve`` do what a controller's ``start`` does, until the event that it is given is set.

    ``note`` is told of each that is made.
    """
    started: dict[Any, threading.Event] = {}

    def start(controller: Any) -> None:
        serve(controller, started.setdefault(controller, threading.Event()))

    def end(controller: Any) -> None:
        started.setdefault(controller, threading.Event()).set()

    original = _Controller.__init__

    @wraps(original)
    def make(controller: Any, *args: Any, **options: Any) -> None:
        original(controller, *args, **options)
        if not isinstance(controller, SimulatedWorker):
            note(controller)

    patches = Patches()
    instead = {"start": start, "stop": end, "terminate": end}
    made = {name: _for_others(getattr(_Controller, name), does) for name, does in instead.items()}
    patches.methods(_Controller, {"__init__": make, **made})
    try:
        yield
    finally:
        patches.undo()
        # Whoever has not stopped his worker lets go of its thread now.
        for over in started.values():
            over.set()


def _for_others(original: Any, instead: Callable[[Any], None]) -> Any:
    @wraps(original)
    def method(controller: Any, *args: Any, **options: Any) -> Any:
        if isinstance(controller, SimulatedWorker):
            return original(controller, *args, **options)
        return instead(controller)

    return method
