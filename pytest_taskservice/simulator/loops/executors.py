"""Executors: their jobs are at work from the moment in which a thread is free for them.

Replaced while a world is open: ``concurrent.futures.ThreadPoolExecutor.submit`` and ``thread._WorkItem.run``;
read: ``_max_workers``.
"""

# ruff: noqa: SLF001 - an executor's own parts, see above

from __future__ import annotations

import concurrent.futures.thread as pools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.simulator.loops.flights import Flight

if TYPE_CHECKING:
    from pytest_taskservice.simulator.loops.stage import Stage
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["Executors"]

_submit: Any = pools.ThreadPoolExecutor.submit
_run_item: Any = pools._WorkItem.run


class Executors:
    """The jobs of all executors in one world."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._jobs: WeakKeyDictionary[Any, tuple[Any, Flight]] = WeakKeyDictionary()
        self._running: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def install(self, patches: Patches) -> None:
        """Replace what the module names."""
        if not hasattr(pools.ThreadPoolExecutor(1), "_max_workers"):
            raise SimulationError("ThreadPoolExecutor._max_workers is gone: not a Python the stage knows")
        patches.set(pools.ThreadPoolExecutor, "submit", self._submitting())
        patches.set(pools._WorkItem, "run", self._working())

    def _submitting(self) -> Callable[..., Any]:
        executors = self

        def submit(executor: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            if executors._stage.closed:
                return _submit(executor, function, *args, **kwargs)
            # Its thread may be quick, and has to find it counted.
            with executors._lock:
                future = _submit(executor, function, *args, **kwargs)
                flight = executors._queue(executor, future)
            future.add_done_callback(lambda done: flight.land() if done.cancelled() else None)
            return future

        return submit

    def _queue(self, executor: Any, future: Any) -> Flight:
        """Count a job that waits for a thread: it is at work if one is free."""
        flight = Flight(self._stage, "a job of an executor")
        threads = executor._max_workers
        flight.seat.pending = lambda: self._running.get(executor, 0) < threads
        flight.seat.waiting = True
        self._jobs[future] = (executor, flight)
        return flight

    def _working(self) -> Callable[..., Any]:
        executors = self

        def run(item: Any, *args: Any) -> Any:
            found = executors._take_off(item.future)
            if found is None:
                return _run_item(item, *args)
            executor, flight = found
            try:
                with flight:
                    return _run_item(item, *args)
            finally:
                with executors._lock:
                    executors._running[executor] -= 1
                flight.land()

        return run

    def _take_off(self, future: Any) -> tuple[Any, Flight] | None:
        with self._lock:
            found = self._jobs.pop(future, None)
            if found is not None:
                executor, flight = found
                self._running[executor] = self._running.get(executor, 0) + 1
                flight.seat.waiting = False
                flight.seat.pending = None
        return found
