"""Event loops inside of simulated tasks: one that waits lets the other tasks go on, in virtual time.

A task that calls ``asyncio.run()`` or ``anyio.run()`` does so in a fiber, on the test's thread, which may be
running a loop itself. Leaned on: ``asyncio._get_running_loop`` and ``_set_running_loop``, which asyncio
offers to makers of loops; trio's ``GLOBAL_RUN_CONTEXT``; sniffio's ``thread_local`` and
``current_async_library_cvar``; AnyIO's ``AsyncIOBackend.run``, for its choice of uvloop, which cannot be told
the time, and ``run_sync_in_worker_thread``, to count its threads.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import sniffio
from sniffio import thread_local

from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.loops.sockets import SILENCE, Descriptors, awaited
from pytest_taskservice.simulator.substitutes import real_monotonic

if TYPE_CHECKING:
    from selectors import SelectorKey

    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.standstill import Errands
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["OwnLoops", "install_fiber_loops"]

_State = tuple[Any, Any, dict[str, Any]]
_NONE: _State = (None, None, {})


class OwnLoops:
    """What loop runs in one fiber: none at first, whatever the thread is doing."""

    def __init__(self) -> None:
        self._outside: _State = _NONE
        self._mine: _State = _NONE

    def __enter__(self) -> Self:
        # In the fiber's own context, which is a copy.
        sniffio.current_async_library_cvar.set(None)
        self._outside = _exchange(_NONE)
        return self

    def __exit__(self, *error: object) -> None:
        _exchange(self._outside)

    def leave(self) -> None:
        """The fiber gives way: the thread runs what it ran before."""
        self._mine = _exchange(self._outside)

    def come_back(self) -> None:
        """The fiber goes on."""
        self._outside = _exchange(self._mine)


def install_fiber_loops(patches: Patches, simulation: Simulation, errands: Errands) -> None:
    """Have loops that tasks make wait in ``simulation``; others stay what they are."""
    from anyio._backends._asyncio import AsyncIOBackend

    before, run = asyncio.events.new_event_loop, AsyncIOBackend.run

    def new_event_loop() -> asyncio.AbstractEventLoop:
        return before() if current_fiber() is None else _FiberLoop(simulation, errands)

    def run_ours(cls: Any, func: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        ours = {} if current_fiber() is None else {"use_uvloop": False}
        return run(func, args, kwargs, options | ours)

    patches.set(asyncio, "new_event_loop", new_event_loop)
    patches.set(asyncio.events, "new_event_loop", new_event_loop)
    in_thread = AsyncIOBackend.run_sync_in_worker_thread

    async def run_counted(cls: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(asyncio.get_running_loop(), _FiberLoop):
            return await in_thread(function, *args, **kwargs)
        errand = errands.begin()
        try:
            return await in_thread(errand.run(function), *args, **kwargs)
        finally:
            errand.end()

    patches.set(AsyncIOBackend, "run", classmethod(run_ours))
    patches.set(AsyncIOBackend, "run_sync_in_worker_thread", classmethod(run_counted))


class _FiberLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, whose clock is the simulation's."""

    def __init__(self, simulation: Simulation, errands: Errands) -> None:
        self._simulation = simulation
        self._errands = errands
        parking = _Parking(simulation, errands)
        super().__init__(parking)
        # Until then it has registered nothing but what wakes it.
        parking.own = frozenset(key.fd for key in parking.get_map().values())

    def time(self) -> float:
        return self._simulation.monotonic() if not self._simulation.closed else real_monotonic()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override] # generic
        errand = self._errands.begin()
        try:
            found = super().run_in_executor(executor, errand.run(func), *args)
        except BaseException:
            errand.end()
            raise
        found.add_done_callback(errand.end)
        return found

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        # asyncio waits for it in one more thread.
        errand = self._errands.begin()
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            errand.end()

    def _write_to_self(self) -> None:
        super()._write_to_self()  # type: ignore[misc] # every loop of asyncio's has it
        if not self._simulation.closed:
            # Who waits is asked after an event: this is one.
            self._simulation.after(0.0, _nothing)


class _Parking(selectors.BaseSelector):
    """A selector that gives way to other fibers instead of sleeping."""

    def __init__(self, simulation: Simulation, errands: Errands) -> None:
        self._simulation = simulation
        self._errands = errands
        self._real = selectors.DefaultSelector()
        self._descriptors = Descriptors()
        self.own: frozenset[int] = frozenset()
        """What wakes the loop itself."""

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        simulation, real = self._simulation, self._real
        events = real.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if simulation.closed or current_fiber() is None:
            return real.select(timeout)

        def ready() -> bool:
            events[:] = real.select(0)
            return bool(events)

        self._errands.wait(ready, timeout, self._answers())
        for key, _ in events:
            self._descriptors.spoke(key.fd)
        return events

    def _answers(self) -> Callable[[], bool]:
        """Return what says whether an answer from outside is awaited; none is for ever."""
        until = real_monotonic() + SILENCE

        def are_awaited() -> bool:
            keys = self._real.get_map()
            if len(keys) <= len(self.own):
                return False
            at_work = self._descriptors.at_work(awaited(keys, own=self.own))
            if at_work and real_monotonic() >= until:
                self._descriptors.gave_up(at_work)
                return False
            return bool(at_work)

        return are_awaited

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

    def close(self) -> None:
        self._real.close()


def _exchange(state: _State) -> _State:
    trio: Any = sys.modules.get("trio._core._run")
    run = None if trio is None else vars(trio.GLOBAL_RUN_CONTEXT)
    loop, name = asyncio._get_running_loop(), thread_local.name  # noqa: SLF001 - for makers of loops
    before = (loop, name, dict(run or {})) if loop is not None or name is not None or run else _NONE
    if before is _NONE and state is _NONE:
        # As nearly always: no loop here, and none there.
        return _NONE
    asyncio._set_running_loop(state[0])  # noqa: SLF001 - as above
    thread_local.name = state[1]
    if run is not None:
        run.clear()
        run.update(state[2])
    return before


def _nothing() -> None:
    """Be an event."""
