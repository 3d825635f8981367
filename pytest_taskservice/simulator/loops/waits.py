"""Threads that wait for each other: a world's own threads are idle meanwhile, so time goes on.

Replaced while a world is open: ``threading.Condition.wait``, by which everything in ``queue`` and
``concurrent.futures`` waits (read: ``_waiters``, ``_release_save``, ``_acquire_restore``), ``Thread.join``,
and ``Thread.start``, whose wait is none, and by which AnyIO starts a portal.
"""

# ruff: noqa: SLF001 - a condition's own parts, see above

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.loops.flights import Flight
from pytest_taskservice.simulator.substitutes import real_join

if TYPE_CHECKING:
    from pytest_taskservice.simulator.loops.seats import Seat
    from pytest_taskservice.simulator.loops.stage import Stage
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["Waits"]

_TICK = 0.002


class Waits:
    """The waits of one world's threads."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._starters: set[int] = set()

    def install(self, patches: Patches) -> None:
        """Replace what the module names."""
        if not hasattr(threading.Condition(), "_waiters"):
            raise SimulationError("threading.Condition._waiters is gone: not a Python the stage knows")
        patches.set(threading.Condition, "wait", self._waiting())
        patches.set(threading.Thread, "join", self._joining())
        patches.set(threading.Thread, "start", self._starting())

    def blocking_seat(self) -> Seat | None:
        """Return the seat of the calling thread, if it waits by blocking."""
        stage = self._stage
        me = threading.get_ident()
        seat = None if stage.closed or me in self._starters else stage.seat_of(me)
        return seat if stage.can_block(seat) else None

    def _waiting(self) -> Callable[..., bool]:
        waits, stage = self, self._stage
        # In a simulation of Celery this is its own, for what no loop is waited for by.
        before = threading.Condition.wait

        def wait(condition: Any, timeout: float | None = None) -> bool:
            seat = None if current_fiber() is not None else waits.blocking_seat()
            if seat is None or (timeout is not None and timeout <= 0):
                return bool(before(condition, timeout))
            gate = _Gate(stage, seat)
            condition._waiters.append(gate)
            saved = condition._release_save()
            try:
                deadline = math.inf if timeout is None else stage.monotonic() + timeout
                stage.block(seat, deadline, what=_waited_for(), ready=lambda: gate.notified)
            finally:
                condition._acquire_restore(saved)
                if not gate.notified:
                    with suppress(ValueError):
                        condition._waiters.remove(gate)
            return gate.notified

        return wait

    def _joining(self) -> Callable[..., None]:
        waits, stage = self, self._stage
        # As above: a task in the simulation joins as it waits.
        before = threading.Thread.join

        def join(thread: Any, timeout: float | None = None) -> None:
            seat = waits.blocking_seat()
            other = thread.is_alive() and thread is not threading.current_thread()
            if seat is None or not other or (timeout is not None and timeout <= 0):
                before(thread, timeout)
                return

            def over() -> bool:
                real_join(thread, _TICK)
                return not thread.is_alive()

            deadline = math.inf if timeout is None else stage.monotonic() + timeout
            # Of a thread that nobody knows, everything may be expected.
            stage.poll(seat, deadline, over, pending=lambda: not stage.stands_still(thread.ident))

        return join

    def _starting(self) -> Callable[..., None]:
        stage, waits = self._stage, self
        before: Any = threading.Thread.start

        def start(thread: Any) -> None:
            caller = sys._getframe(1).f_globals.get("__name__")
            if stage.closed or caller != "anyio.from_thread":
                waits._start(thread, before)
                return
            # Its loop takes a seat of its own; until then it is at work.
            flight = Flight(stage, "a portal")
            run = thread.run

            def run_in_flight() -> None:
                try:
                    with flight:
                        run()
                finally:
                    flight.land()

            thread.run = run_in_flight
            waits._start(thread, before)

        return start

    def _start(self, thread: Any, start: Callable[[Any], None]) -> None:
        """Start a thread. Waiting until it runs is no wait in virtual time."""
        me = threading.get_ident()
        self._starters.add(me)
        try:
            start(thread)
        finally:
            self._starters.discard(me)


class _Gate:
    """What a condition releases to tell one waiter; it counts as at work from that moment."""

    def __init__(self, stage: Stage, seat: Seat) -> None:
        self._stage = stage
        self._seat = seat
        self.notified = False

    def release(self) -> None:
        self.notified = True
        self._stage.rouse(self._seat)


def _waited_for() -> str:
    """Say what a thread waits for by who called ``Condition.wait``."""
    frame = sys._getframe(2)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")) in _PLUMBING:
        frame = frame.f_back
    if frame.f_globals.get("__name__") == "anyio._backends._trio":
        return "something to happen in the event loop"
    return f"an answer at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


_PLUMBING = frozenset(
    {"threading", "queue", "concurrent.futures._base", "anyio.from_thread", "taskservice.blocking", __name__}
)
