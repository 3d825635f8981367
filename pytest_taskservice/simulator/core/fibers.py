"""Fibers: where events run, so that one which waits lets the others go on.

A fiber is a greenlet that runs one event after the other. One that parks keeps its stack, and others take its
place. Fibers belong to the thread that opened the simulation.
"""

from __future__ import annotations

from contextvars import copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, final

from greenlet import GreenletExit, getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.simulator.core.agenda import Due, Weight

__all__ = ["Fiber", "Fibers", "Process", "ThreadState", "current_fiber"]


class Process(Protocol):
    """What stands for the process that an event belongs to."""

    weight: Weight
    """What its sleeping means for whether the world is idle."""

    @property
    def held_up(self) -> list[tuple[Callable[..., Any], tuple[Any, ...]]] | None:
        """What happens when it goes on; ``None`` unless it is stopped."""

    def enter(self) -> None:
        """Make the process's own state the current one: its fiber goes on."""


class ThreadState(Protocol):
    """What a fiber has that belongs to its thread, and that others of the thread must not see."""

    def leave(self) -> None:
        """Put it aside: the fiber gives way."""

    def come_back(self) -> None:
        """Put it back: the fiber goes on."""


@final
class Fiber(greenlet):
    """One stack. ``process`` stands for the process that the running event belongs to."""

    def __init__(self, home: Fibers) -> None:
        super().__init__()
        self._home = home
        self.process: Process | None = None
        self.own: ThreadState | None = None
        self.ended = False
        """Whether nothing may come of it any more; it dies at its next wait."""
        self.turn = 0
        """The number of the wait the fiber is in: who wakes it compares."""
        self.wakes: Due | None = None
        """What ends its sleep: nobody waits for that when the fiber never goes on."""

    def run(self, action: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Run events until the simulation ends."""
        idle = self._home.idle
        while True:
            action(*args)
            self.process = None
            if self.ended:
                return
            idle.append(self)
            action, args = self.parent.switch()  # type: ignore[union-attr] # whoever runs it is its parent

    def park(self) -> Any:
        """Give way; return what :meth:`resume` brings."""
        if self.ended:
            raise GreenletExit
        self.turn += 1
        self._home.parked[self] = None
        own = self.own
        if own is not None:
            own.leave()
        try:
            found = self.parent.switch()  # type: ignore[union-attr] # whoever runs it is its parent
        finally:
            if own is not None:
                own.come_back()
        if self.ended:
            raise GreenletExit
        return found

    def resume(self, turn: int, value: Any = None) -> None:
        """Go on with the fiber where it parked for the ``turn``-th time; nothing if that is over."""
        parked = self._home.parked
        if self.turn != turn or self not in parked:
            return
        process = self.process
        if process is not None:
            if process.held_up is not None:
                process.held_up.append((self.resume, (turn, value)))
                return
            process.enter()
        del parked[self]
        here = getcurrent()
        if self.parent is not here:
            self.parent = here
        self.switch(value)

    def interrupt(self, error: BaseException) -> None:
        """Go on with a parked fiber by raising ``error`` where it waits."""
        if self in self._home.parked:
            del self._home.parked[self]
            self.parent = getcurrent()
            self.throw(error)


class Fibers:
    """The fibers of one simulation."""

    def __init__(self) -> None:
        self.idle: list[Fiber] = []
        self.parked: dict[Fiber, None] = {}
        # Kept: a greenlet that is collected unwinds where it stands.
        self.abandoned: list[Fiber] = []
        self._thread: int | None = get_ident()
        _homes[self._thread] = _homes.get(self._thread, 0) + 1

    def perform(self, due: Due) -> None:
        """Run one event, until it is over or waits."""
        # An event that runs is over for the agenda: what it wakes may cancel it, and it would be counted
        # twice.
        action, due.action = due.action, None
        if getattr(action, "__func__", None) is _resume:
            # It has a stack already, the one that it goes on with.
            action(*due.args)  # type: ignore[misc] # it has a __func__
            return
        idle = self.idle
        fiber = idle.pop() if idle else Fiber(self)
        # Bodies see the context of whoever runs the simulation, as a call would.
        fiber.gr_context = copy_context()
        here = getcurrent()
        if fiber.parent is not here:
            fiber.parent = here
        fiber.switch(action, due.args)

    def abandon(self, fiber: Fiber) -> None:
        """Never continue ``fiber``, as if its process had been killed: not even its ``finally`` runs now."""
        if self.parked.pop(fiber, _ABSENT) is not _ABSENT:
            self.abandoned.append(fiber)

    def close(self) -> None:
        """End every fiber; what waits unwinds through its ``finally`` blocks."""
        for fiber in [*self.parked, *self.abandoned]:
            _end(fiber)
        self.parked.clear()
        self.abandoned.clear()
        for fiber in self.idle:
            _end(fiber)
        self.idle.clear()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            _homes[thread] -= 1
            if not _homes[thread]:
                del _homes[thread]


_homes: dict[int, int] = {}
"""How many open ``Fibers`` each thread has made that has any."""
_resume = Fiber.resume
_ABSENT = object()
_LAST_WORDS = 100


def _end(fiber: Fiber) -> None:
    """Unwind ``fiber`` now: one that is left to the collector unwinds in the middle of something else."""
    fiber.ended = True
    for _ in range(_LAST_WORDS):
        if fiber.dead:
            return
        fiber.parent = getcurrent()
        try:
            fiber.throw(GreenletExit)
        except BaseException:  # noqa: BLE001, S112 - the test is over: nobody is left to be told
            continue


def current_fiber() -> Fiber | None:
    """Return the fiber that runs here; ``None`` outside of every event."""
    if get_ident() not in _homes:
        # Asking greenlet gives a thread one of its own. When the thread ends that is freed, even if a frame
        # holds it that is garbage just then, and Python crashes.
        return None
    found = getcurrent()
    return found if type(found) is Fiber else None
