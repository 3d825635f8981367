"""A world of event loops in virtual time: while it is open, every loop that is made is on one stage.

Replaced while it is open: ``new_event_loop`` of asyncio, ``setup_runner`` and the scheduler's chance of
``trio._core._run``, and AnyIO's choice of uvloop, which cannot be told the time. ``run_forever`` is replaced
too: once the test's thread runs it, a loop of asyncio's own that was made before, or by the user's own hand,
is on the stage. Any other (uvloop, one that runs already, a trio ``clock``) stays as it is, and real.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from pytest_taskservice.clock import Clock
from pytest_taskservice.simulator.bystanders import Bystanders
from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.core.virtual import VirtualTimeline
from pytest_taskservice.simulator.freezing import coupled
from pytest_taskservice.simulator.loops import asyncio_loop
from pytest_taskservice.simulator.loops.executors import Executors
from pytest_taskservice.simulator.loops.stage import Stage
from pytest_taskservice.simulator.loops.waits import Waits
from pytest_taskservice.simulator.loops.workers import TrioWorkers, install_anyio
from pytest_taskservice.simulator.substitutes import Patches, note_reading, replaced
from pytest_taskservice.simulator.wallclock import wall_clock

if TYPE_CHECKING:
    from pytest_taskservice.simulator.loops.seats import Limits

__all__ = ["START", "open_stage", "virtual_loops"]

START = 1_767_225_600.0
"""2026-01-01T00:00:00Z, in seconds since the Unix epoch."""

_checked: list[bool] = []


@contextmanager
def open_stage(*, start: float = START, seed: int = 0, limits: Limits | None = None) -> Iterator[Stage]:
    """Hold the process's clocks, and yield the stage whose loops and threads move them."""
    with ExitStack() as stack:
        move = stack.enter_context(wall_clock(start, on_read=note_reading))
        stage = Stage(VirtualTimeline(start=start, on_move=move), seed=seed, limits=limits)
        bystanders = Bystanders(stage.known_threads)
        stage.let_work = lambda seconds, over: bystanders.let_work()
        # First, for it reads the functions that are replaced next.
        stack.enter_context(coupled(Clock(stage)))
        stack.enter_context(virtual_loops(stage))
        stack.enter_context(replaced(stage))
        yield stage


@contextmanager
def virtual_loops(stage: Stage) -> Iterator[None]:
    """Put every event loop that is made meanwhile, and its threads, on ``stage``; close it afterwards."""
    if not _checked:
        asyncio_loop.check()
        _checked.append(True)
    patches = Patches()
    waits = Waits(stage)
    try:
        _install_asyncio(stage, patches)
        # Nobody runs trio who has not got it.
        if importlib.util.find_spec("trio") is not None:
            _install_trio(stage, waits, patches)
        install_anyio(stage, patches)
        Executors(stage).install(patches)
        waits.install(patches)
        yield
    finally:
        stage.close()
        patches.undo()


def _install_asyncio(stage: Stage, patches: Patches) -> None:
    from anyio._backends._asyncio import AsyncIOBackend

    adopted: list[asyncio_loop.Adopted] = []
    # Theirs go on in real time; one that is started from now on may run a loop that somebody has made before.
    strangers = WeakSet(set(threading.enumerate()) - {threading.current_thread()})
    run_forever: Any = asyncio.BaseEventLoop.run_forever

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        adopted.append(asyncio_loop.Adopted(loop, stage))
        return loop

    def run_ours_forever(loop: Any) -> None:
        is_theirs = type(loop) is asyncio.SelectorEventLoop and threading.current_thread() not in strangers
        if not is_theirs or stage.closed or current_fiber() is not None:
            run_forever(loop)
            return
        adopted.append(asyncio_loop.Adopted(loop, stage))
        loop.run_forever()

    def give_back() -> None:
        for each in adopted:
            each.give_back()

    patches.on_undo(give_back)
    patches.set(asyncio, "new_event_loop", new_event_loop)
    patches.set(asyncio.events, "new_event_loop", new_event_loop)
    patches.set(asyncio.BaseEventLoop, "run_forever", run_ours_forever)
    run, make_runner = AsyncIOBackend.run, AsyncIOBackend.create_test_runner

    def run_ours(cls: Any, func: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        return run(func, args, kwargs, options | {"use_uvloop": False})

    def make_ours(cls: Any, options: dict[str, Any]) -> Any:
        return make_runner(options | {"use_uvloop": False})

    patches.set(AsyncIOBackend, "run", classmethod(run_ours))
    patches.set(AsyncIOBackend, "create_test_runner", classmethod(make_ours))


def _install_trio(stage: Stage, waits: Waits, patches: Patches) -> None:
    import trio

    from pytest_taskservice.simulator.loops import trio_clock

    if len(_checked) < 2:
        trio_clock.check()
        _checked.append(True)
    inside: Any = trio._core._run  # noqa: SLF001 - see the module
    setup_runner = inside.setup_runner
    workers = TrioWorkers(stage, waits)
    workers.install(patches)

    def setup_ours(clock: Any, instruments: Any, *args: Any, **kwargs: Any) -> Any:
        if clock is None:
            clock = trio_clock.VirtualClock(stage)
            clock.run.on_scheduled = workers.left_by
            instruments = (*instruments, clock.run)
        return setup_runner(clock, instruments, *args, **kwargs)

    patches.set(inside, "setup_runner", setup_ours)
    patches.set(inside, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    patches.set(inside, "_r", stage.random.stream("trio"))
