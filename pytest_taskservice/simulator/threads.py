"""Threads beside a simulation: they wait for it for real, and it runs while its owner waits for them.

Replaces ``threading.Condition.wait`` and ``threading.Thread.join`` while open: on the owner's thread they
take steps for whoever waits. Everything in ``queue`` and ``concurrent.futures`` waits through them. Replaces
``BaseEventLoop.run_forever`` too: the first loop that the owner runs has all be in virtual time, and one that
cannot be, uvloop's for one, is known.
"""

# ruff: noqa: SLF001 - a condition's own parts, see above

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.simulator.answers import install_awaited_answers
from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.standstill import Errands
from pytest_taskservice.simulator.substitutes import Patches, real_join, real_monotonic, real_sleep

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["Threads"]

_TICK = 0.0005
_GRACE = 0.002
"""Real seconds that other threads get to act before time goes on without them."""
_STEPS = 1000
_PATIENCE = 2.0
"""Real seconds for which threads that compute may yet bring what an idle simulation cannot."""
_PATIENCE_AT_WORK = 1.0
"""Real seconds for which time stands still for those who are at work."""
_SERVED_WITHIN = 60.0
_AGAIN = 0.02

_condition_wait: Any = threading.Condition.wait
_run_forever: Any = asyncio.BaseEventLoop.run_forever
_now = real_monotonic


def _open_none() -> bool:
    """Leave event loops in real time."""
    return False


def _nobody(_: set[int]) -> bool:
    """Know of no thread at work."""
    return False


class _Waiter:
    def __init__(self, ready: Callable[[], bool], deadline: float | None, what: str) -> None:
        self.ready = ready
        self.deadline = deadline
        self.what = what
        self.name = threading.current_thread().name
        self.thread = threading.get_ident()
        self.result = False
        self.over = threading.Lock()
        self.over.acquire()


class Threads:
    """The threads that wait for one simulation; implements ``Outsiders``."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._owner = threading.get_ident()
        self._waiters: list[_Waiter] = []
        self._impatience = 0.0
        self.nudge: Callable[[], Any] | None = None
        """Called when a thread begins to wait: the owner may wait in another way than by a condition."""
        self.open_loops: Callable[[], bool] = _open_none
        """Called when the owner runs an event loop; returns whether that has loops be virtual from now on."""
        self.at_work: Callable[[set[int]], bool] = _nobody
        """Told which threads wait, returns whether one of those that the test waits for is at work."""
        self.errands = Errands(simulation)
        self.serves_sockets = False
        """Whether the owner may have real connections: a server of the test's own may be behind one."""
        self._loop: Any = None
        self._going = 0
        self._still_until: float | None = None

    def install(self, patches: Patches) -> None:
        """Let the owner's waits for threads be waits in the simulation."""
        simulation, threads = self._simulation, self

        def wait(condition: Any, timeout: float | None = None) -> bool:
            if not threads.inside():
                return bool(_condition_wait(condition, timeout))
            return threads._wait_for(condition, timeout)

        def join(thread: Any, timeout: float | None = None) -> None:
            if not threads.inside() or simulation.closed:
                real_join(thread, timeout)
                return
            end = None if timeout is None else _now() + timeout
            while thread.is_alive() and (end is None or _now() < end):
                real_join(thread, 0.0 if threads._going else _TICK)
                threads._serve(None)

        if self.serves_sockets:
            install_awaited_answers(patches, self._await_answer)
        patches.set(threading.Condition, "wait", wait)
        patches.set(threading.Thread, "join", join)
        self._look_out_for_loops(patches)

    def _look_out_for_loops(self, patches: Patches) -> None:
        threads = self
        passed_on: set[Any] = set()

        def run_forever(loop: Any) -> None:
            # A task's loop gives way by itself.
            if current_fiber() is not None:
                _run_forever(loop)
                return
            if not threads.inside():
                latest: Any = asyncio.BaseEventLoop.run_forever
                if latest is run_forever or loop in passed_on:
                    _run_forever(loop)
                    return
                # A thread's target may have been named before loops were virtual.
                passed_on.add(loop)
                try:
                    latest(loop)
                finally:
                    passed_on.discard(loop)
                return
            if type(loop) is asyncio.SelectorEventLoop and threads.open_loops():
                # It is in virtual time from now on.
                loop.run_forever()
                return
            before, threads._loop = threads._loop, loop
            try:
                _run_forever(loop)
            finally:
                threads._loop = before

        patches.set(asyncio.BaseEventLoop, "run_forever", run_forever)

    def inside(self) -> bool:
        """Return whether the caller is the owner's thread."""
        return threading.get_ident() == self._owner

    def wait(self, ready: Callable[[], bool], deadline: float | None, what: str) -> bool:
        """Block until the owner's thread finds ``ready`` or the deadline reached."""
        if ready():
            return True
        waiter = _Waiter(ready, deadline, what)
        self._waiters.append(waiter)
        end = _now() + _SERVED_WITHIN
        self._ask_owner()
        while not waiter.over.acquire(timeout=_AGAIN):
            # Once more: it may have looked before it began to wait.
            self._ask_owner()
            if self._simulation.closed:
                raise SimulationError(
                    f"thread {waiter.name} waited for {what} when the simulation was closed"
                )
            if _now() > end:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
                raise SimulationError(
                    f"thread {waiter.name} waited for {what} for {_SERVED_WITHIN:g} real s: time passes "
                    "only while the test's own thread waits (for a result, a thread, in taskservice_clock)"
                )
        return waiter.result

    def _ask_owner(self) -> None:
        if self.nudge is not None:
            self.nudge()
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._help_in_loop)

    def waiting(self) -> bool:
        """Return whether any thread waits."""
        return bool(self._waiters)

    def waiting_threads(self) -> set[int]:
        """Return which threads wait."""
        return {waiter.thread for waiter in list(self._waiters)}

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of those who wait."""
        return min((waiter.deadline for waiter in self._waiters if waiter.deadline is not None), default=None)

    def wake(self) -> bool:
        """Let go whose wait is over, and give them a moment before time goes on."""
        now = self._simulation.monotonic()
        woken = False
        for waiter in list(self._waiters):
            result = bool(waiter.ready())
            over = result or (waiter.deadline is not None and now >= waiter.deadline)
            # Asking may have let events happen, and them wake it.
            if over and waiter in self._waiters:
                self._waiters.remove(waiter)
                waiter.result = result
                waiter.over.release()
                woken = True
        if woken:
            real_sleep(_TICK)
        return woken

    def let_work(self, is_due: Callable[[], bool]) -> bool:
        """Wait for threads that tasks wait for; return whether something ``is_due`` before time goes on."""
        return self.errands.let_work(is_due, self.waiting_threads)

    def let_run(self) -> bool:
        """Wait a moment for other threads; return whether it may have helped."""
        if threading.active_count() < 2 or self._impatience > _PATIENCE:
            self._impatience = 0.0
            return False
        if self._waiters and self.wake():
            self._impatience = 0.0
            return True
        real_sleep(_TICK)
        self._impatience += _TICK
        return True

    def look_anew(self) -> None:
        """Take it that threads have something to do from now on."""
        if self.errands.bystanders is not None:
            self.errands.bystanders.look_anew()

    def hold(self) -> bool:
        """Give a thread that is at work a moment before time leaps; return whether there was one."""
        bystanders = self.errands.bystanders
        if bystanders is None or not bystanders.at_work():
            return False
        real_sleep(_TICK)
        return True

    def _help_in_loop(self) -> None:
        """Take steps in an event loop of the owner's that keeps real time, a turn of it for each."""
        if self.help() and self._loop is not None:
            self._loop.call_soon(self._help_in_loop)

    def help(self, until: float = math.inf) -> bool:
        """Take a step for threads that wait, not beyond an instant; return whether any still does."""
        if self._waiters and not self.wake() and not self._stands_still():
            self._simulation.serve_outsiders(None if until == math.inf else until)
        return bool(self._waiters)

    def _stands_still(self) -> bool:
        """Return whether time has to stand still for a thread that is at work, and give it a moment."""
        if not self.at_work(self.waiting_threads()):
            self._still_until = None
            return False
        now = _now()
        if self._still_until is None:
            self._still_until = now + _PATIENCE_AT_WORK
        if now >= self._still_until:
            return False
        real_sleep(_TICK)
        return True

    def _await_answer(self, has_come: Callable[[float], bool], timeout: float | None) -> None:
        """Take steps for threads that wait while the owner awaits what one of them may have to send."""
        if not self.inside() or current_fiber() is not None or self._simulation.closed:
            return
        end = None if timeout is None else _now() + timeout
        while not has_come(0.0 if self._going else _TICK) and (end is None or _now() < end):
            if self._waiters:
                self._serve(None)

    def explain(self) -> Iterable[str]:
        """Say what each thread waits for."""
        return [f"thread {waiter.name}: {waiter.what}" for waiter in self._waiters]

    def _wait_for(self, condition: Any, timeout: float | None) -> bool:
        """Do what ``Condition.wait`` does, but let the simulation go on for threads that wait for it."""
        if self._simulation.closed:
            return bool(_condition_wait(condition, timeout))
        gate = threading.Lock()
        gate.acquire()
        condition._waiters.append(gate)
        saved = condition._release_save()
        notified = False
        end = None if timeout is None else _now() + timeout
        virtual_end = None if timeout is None else self._simulation.monotonic() + timeout
        try:
            if threading.active_count() < 2:
                # Nobody but an event can ever notify: that is a wait in the simulation.
                notified = self._simulation.wait(
                    lambda: gate.acquire(blocking=False), timeout=timeout, what="a threading.Condition"
                )
                return notified
            while not (notified := self._opened(gate)):
                if end is not None and (_now() >= end or self._over(virtual_end)):
                    break
                self._serve(virtual_end)
        finally:
            condition._acquire_restore(saved)
            if not notified:
                with suppress(ValueError):
                    condition._waiters.remove(gate)
        return notified

    def touch(self) -> None:
        """Say that another thread has something to do now: it gets a moment before time goes on."""
        self._going = 0

    def _opened(self, gate: Any) -> bool:
        return bool(gate.acquire(blocking=False) or gate.acquire(timeout=0 if self._going else _GRACE))

    def _over(self, end: float | None) -> bool:
        return end is not None and self._simulation.monotonic() >= end

    def _serve(self, end: float | None) -> None:
        if current_fiber() is not None:
            # Inside an event nobody can take steps but who runs it: give way.
            if self._waiters:
                self._simulation.sleep(1e-6)
            return
        # In one go as long as nobody else has anything to do: a moment after each event would add up.
        self._going = min(self._going + 1, _STEPS) if self._simulation.serve_outsiders(end) else 0
        if self._going >= _STEPS:
            self._going = 0
