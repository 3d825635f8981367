"""asyncio in virtual time: an event loop that reads a stage's clock, and moves it where it would sleep.

Every loop of asyncio's own can be one, made by whomever and before the world was open, until that is closed.

Leans on ``BaseEventLoop._ready``, ``_scheduled``, ``_clock_resolution`` and ``_run_once``, on
``BaseSelectorEventLoop._ssock`` and ``_selector``, on ``TimerHandle._when``, on a step's callback knowing its
task, on ``Task._fut_waiter``, and on how asyncio's streams note that somebody reads. ``check`` tells what of
that is gone.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from heapq import heapify
from random import Random
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.simulator.loops.seats import Seat
from pytest_taskservice.simulator.loops.sockets import SILENCE, Descriptors, awaited
from pytest_taskservice.simulator.loops.stage import PATIENCE, Stage
from pytest_taskservice.simulator.loops.stories import awaited_frames, where
from pytest_taskservice.simulator.substitutes import real_monotonic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from selectors import SelectorKey

__all__ = ["Adopted", "VirtualLoop", "check"]

_LONGEST = 86_400.0
_PUT_OFF = 100
"""Turns of a loop for which those who wait in threads are put off."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a stage. With a seed other than 0, it draws the order of the tasks that can go on.

    None is made as one: see `Adopted`.
    """

    def join(self, stage: Stage) -> None:
        """Take a seat on ``stage``."""
        self.stage = stage
        self._draw = stage.random.stream("asyncio") if stage.seed else None
        self._children: list[Any] = []
        self._failure: Exception | None = None
        self._put_off = 0
        self.seat = Seat("an asyncio loop", wake=self._nudge, pending=self.has_news, explain=self._explain)
        self.seat.fail = self._fail

    def time(self) -> float:
        """Return the virtual monotonic clock; the real one once the world is closed."""
        return real_monotonic() if self.stage.closed else self.stage.monotonic()

    @property
    def _clock_resolution(self) -> float:
        # asyncio runs what is due before now and this: a nanosecond is lost in a clock of years.
        return math.ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """Leave it: asyncio tells what the real clock has."""

    def run_forever(self) -> None:
        """Run; meanwhile the loop speaks for its thread."""
        self.stage.push(self.seat)
        try:
            super().run_forever()
        finally:
            self.stage.pop(self.seat)
            self.stage.leave(self.seat)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Start a process, for which time stands still."""
        return self._awaiting(await super().subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """Start a process, for which time stands still."""
        return self._awaiting(await super().subprocess_shell(*args, **kwargs))

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the executor's threads, however long that takes in virtual time."""
        # A thread of asyncio's own joins them, which no seat speaks for: a timer would be over at once.
        await super().shutdown_default_executor()

    def next_timer(self, timeout: float | None) -> float:
        """Return the instant until which a loop sleeps that wants to sleep for ``timeout``."""
        if timeout is None:
            return math.inf
        # asyncio never sleeps longer than a day at a time.
        return self._scheduled[0].when() if timeout >= _LONGEST else self.stage.monotonic() + timeout

    def raise_failure(self) -> None:
        """Raise what the test is to be told, if no task of its own could be."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def has_news(self) -> bool:
        """Return whether something is to be called."""
        return bool(self._ready)

    def has_children(self) -> bool:
        """Return whether a process of this loop runs."""
        if self._children:
            self._children = [child for child in self._children if child.get_returncode() is None]
        return bool(self._children)

    def awaited(self, keys: Mapping[Any, SelectorKey]) -> dict[int, bool]:
        """Return the descriptors that somebody waits for, and whether something is to be written there."""
        return awaited(keys, own=(self._ssock.fileno(),))

    def _awaiting(self, made: Any) -> Any:
        self._children.append(made[0])
        return made

    def _run_once(self) -> None:
        if self._draw is not None:
            _shuffle(self._ready, self._draw)
        super()._run_once()  # type: ignore[misc] # see the module

    def _nudge(self) -> None:
        # Nobody waits in a loop that is closed.
        with suppress(RuntimeError):
            self.call_soon_threadsafe(self._help if self.seat.asked else _nothing)

    def _help(self) -> None:
        self.seat.asked = False
        if self._ready and self._put_off < _PUT_OFF:
            # What has come is done before time goes on; some do nothing but look whether it has.
            self._put_off += 1
            self._help_again()
            return
        self._put_off = 0
        timer = self._scheduled[0].when() if self._scheduled else math.inf
        if self.stage.help is not None and self.stage.help(timer):
            self._help_again()

    def _help_again(self) -> None:
        self.seat.asked = True
        self.call_soon(self._help)

    def _fail(self, error: Exception) -> None:
        self.call_soon_threadsafe(self._deliver, error)

    def _deliver(self, error: Exception) -> None:
        """Raise ``error`` where the test waits, as AnyIO runs it; elsewhere the loop itself has to."""
        for task in asyncio.all_tasks(self):
            if getattr(task.get_coro(), "__qualname__", "") == "TestRunner._run_tests_and_fixtures":
                waiter = task
                while isinstance(waiter, asyncio.Task):
                    waiter = waiter._fut_waiter  # type: ignore[attr-defined] # noqa: SLF001 - see the module
                if waiter is not None and not waiter.done():
                    waiter.set_exception(error)
                    return
                task.cancel()
        self._failure = error

    def _explain(self) -> Iterator[str]:
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            if place := where(awaited_frames(task.get_coro())):
                yield f"task {task.get_name()}: {place}"

    if TYPE_CHECKING:
        _ready: deque[asyncio.Handle]
        _scheduled: list[asyncio.TimerHandle]
        _ssock: Any


class _Pausing(selectors.BaseSelector):
    """A selector that lets virtual time go on instead of sleeping."""

    def __init__(self, loop: VirtualLoop, stage: Stage, real: selectors.BaseSelector) -> None:
        self._loop = loop
        self._stage = stage
        self._real = real
        self._descriptors = Descriptors()

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if self._stage.closed:
            return self._real.select(timeout)
        self._loop.raise_failure()
        events = self._real.select(0)
        if events or (timeout is not None and timeout <= 0):
            self._stage.turned(self._loop.seat)
            return events
        return self._pause(self._loop.next_timer(timeout))

    def _pause(self, deadline: float) -> list[tuple[SelectorKey, int]]:
        stage, seat = self._stage, self._loop.seat
        since = stage.progress, real_monotonic()
        # A process takes as long as it takes: while one runs, time is as quick as real time, not slower.
        patience = real_monotonic() + deadline - stage.monotonic()
        while True:
            keys = self._real.get_map()
            at_work = self._descriptors.at_work(self._loop.awaited(keys)) if len(keys) > 1 else set()
            processes = self._loop.has_children()
            holding = (real_monotonic() < patience) if processes else bool(at_work)
            if stage.closed:
                return []
            stage.begin(seat, deadline, holding=holding)
            # What happened on this very thread may have called something soon, which wakes no selector.
            if not seat.waiting or self._loop.has_news():
                stage.end(seat)
                return []
            try:
                longest = SILENCE if at_work else PATIENCE
                events = self._real.select(
                    min(longest, patience - real_monotonic()) if processes and holding else longest
                )
                if not events and seat.waiting and not holding:
                    since = stage.check(since, "something to happen in the event loop")
            finally:
                woken = stage.end(seat)
            for key, _ in events:
                stage.progress += 1
                self._descriptors.spoke(key.fd)
            if woken or events:
                return events
            self._descriptors.gave_up(at_work)

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> SelectorKey:
        key = self._real.unregister(fileobj)
        self._descriptors.spoke(key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._real.get_map()

    def get_key(self, fileobj: Any) -> SelectorKey:
        return self._real.get_key(fileobj)

    def close(self) -> None:
        self._real.close()


class Adopted:
    """A ``SelectorEventLoop``, whoever has made it, that is a `VirtualLoop` until it is given back."""

    def __init__(self, loop: Any, stage: Stage) -> None:
        self._loop = loop
        self._selector = loop._selector  # noqa: SLF001 - see the module
        self._before = set(vars(loop))
        self._early = [(handle, handle.when()) for handle in loop._scheduled]  # noqa: SLF001 - as above
        loop.__class__ = VirtualLoop
        loop.join(stage)
        loop._selector = _Pausing(loop, stage, self._selector)  # noqa: SLF001 - as above
        self._shift_timers(stage.monotonic() - real_monotonic())

    def give_back(self) -> None:
        """Have it be what it was; one that runs goes on in real time, for its stage is closed.

        Timers of before are due when they were, those of meanwhile after as long as they would have been.
        """
        loop = self._loop
        if loop.is_running():
            return
        self._shift_timers(real_monotonic() - loop.stage.monotonic())
        for handle, instant in self._early:
            handle._when = instant  # noqa: SLF001 - as above
        heapify(loop._scheduled)  # noqa: SLF001 - as above
        loop._selector = self._selector  # noqa: SLF001 - as above
        loop.__class__ = asyncio.SelectorEventLoop
        for name in set(vars(loop)) - self._before:
            delattr(loop, name)

    def _shift_timers(self, seconds: float) -> None:
        for handle in self._loop._scheduled:  # noqa: SLF001 - as above
            handle._when += seconds  # noqa: SLF001 - as above


def check() -> None:
    """Raise `SimulationError` if this Python's asyncio is not the one this module knows."""
    loop = asyncio.SelectorEventLoop()
    try:

        async def ask() -> bool:
            await asyncio.sleep(0)
            return True

        task = loop.create_task(ask())
        known = hasattr(loop, "_ssock") and hasattr(loop, "_run_once")
        known = known and [getattr(each._callback, "__self__", None) for each in loop._ready] == [task]  # type: ignore[attr-defined] # noqa: SLF001
        loop.run_until_complete(task)
        reader = asyncio.StreamReader(loop=loop)
        known = known and hasattr(reader, "_waiter") and hasattr(task, "_fut_waiter")
        known = known and hasattr(loop, "_selector") and hasattr(loop.call_later(0, _nothing), "_when")
        known = known and hasattr(loop, "_scheduled") and hasattr(loop, "_clock_resolution")
        known = known and hasattr(asyncio.StreamReaderProtocol(reader, loop=loop), "_stream_reader")
    finally:
        loop.close()
    if not known:
        raise SimulationError(f"asyncio of Python {sys.version.split()[0]} is not one the virtual loop knows")


def _shuffle(ready: deque[asyncio.Handle], draw: Random) -> None:
    """Change the order of the tasks that can go on; other callbacks keep their places, as promised."""
    if len(ready) < 2:
        return
    steps = [
        place
        for place, handle in enumerate(ready)
        if isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined] # noqa: SLF001
    ]
    if len(steps) < 2:
        return
    handles = [ready[place] for place in steps]
    draw.shuffle(handles)
    for place, handle in zip(steps, handles, strict=True):
        ready[place] = handle


def _nothing() -> None:
    """Be a reason to look again."""
