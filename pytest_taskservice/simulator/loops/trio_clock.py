"""trio in virtual time: a clock that reads a stage, and an instrument that tells it when a run is idle.

Leans on trio's ``GLOBAL_RUN_CONTEXT.runner``, its ``is_guest``, ``main_task``, ``deadlines``,
``entry_queue``, ``waiting_for_idle`` and ``io_manager._registered``, and on ``Task._attempt_abort``, by which
trio itself delivers ``KeyboardInterrupt``. ``check`` tells what of that is gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import trio
from trio.lowlevel import Task

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.simulator.loops.seats import Seat
from pytest_taskservice.simulator.loops.sockets import SILENCE, Descriptors
from pytest_taskservice.simulator.loops.stage import PATIENCE, Stage
from pytest_taskservice.simulator.loops.stories import awaited_frames, where
from pytest_taskservice.simulator.substitutes import real_monotonic

__all__ = ["VirtualClock", "VirtualRun", "check"]

_KQUEUE_WRITE = -2


class VirtualClock(trio.abc.Clock):
    """A stage's clock, for one trio run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.run = VirtualRun(self, stage)

    def start_clock(self) -> None:
        """Do nothing: it stands, or is moved."""

    def current_time(self) -> float:
        """Return the virtual monotonic clock."""
        return self.stage.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Let virtual time go on, and return how long to wait for real."""
        return self.run.pause(deadline)


class VirtualRun(trio.abc.Instrument):
    """The seat of one trio run."""

    def __init__(self, clock: VirtualClock, stage: Stage) -> None:
        self._stage = stage
        self._clock = clock
        self._runner: Any = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._descriptors = Descriptors()
        self._at_work: set[int] = set()
        self._began = 0.0
        self._since = (-1, 0.0)
        self.on_scheduled: Callable[[Task], None] | None = None
        self.seat = Seat("a trio run", wake=self._nudge, pending=self._has_news, explain=self._explain)
        self.seat.fail = self._fail

    def before_run(self) -> None:
        """Take the seat."""
        self._runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner  # noqa: SLF001 - see the module
        self._token = trio.lowlevel.current_trio_token()
        self._stage.push(self.seat)

    def after_run(self) -> None:
        """Give the seat up."""
        self._stage.pop(self.seat)
        self._stage.leave(self.seat)

    def pause(self, deadline: float) -> float:
        """Wait in virtual time for ``deadline`` or for news; return how long to wait for real."""
        stage = self._stage
        left = deadline - stage.monotonic()
        if stage.closed or left <= 0 or self._runner.waiting_for_idle:
            return left
        awaited = self._awaited()
        self._at_work = self._descriptors.at_work(awaited) if awaited else set()
        if self._runner.is_guest:
            # The host's thread goes on with something else first, which may be the end of the test.
            stage.pop(self.seat)
        self._began = real_monotonic()
        if self._since[0] != stage.progress:
            self._since = stage.progress, self._began
        stage.begin(self.seat, deadline, holding=bool(self._at_work))
        if not self.seat.waiting:
            return 0.0
        if self._at_work:
            return SILENCE
        # The host's thread looks after the run.
        return math.inf if self._runner.is_guest else PATIENCE

    def before_io_wait(self, timeout: float) -> None:
        """Count a turn that waits for nothing."""
        if timeout <= 0 and not self.seat.waiting:
            self._stage.turned(self.seat)
        if self._runner.is_guest:
            self._stage.pop(self.seat)

    def after_io_wait(self, timeout: float) -> None:
        """Be at work again."""
        if self._runner.is_guest:
            self._stage.push(self.seat)
        if not self.seat.waiting and timeout <= 0:
            return
        if self._runner.runq:
            self._stage.progress += 1
        elif self.seat.waiting and not self._at_work and not self._runner.is_guest:
            self._since = self._stage.check(self._since, "something to happen in the event loop")
        woken = self._stage.end(self.seat)
        if not woken and self._at_work:
            self._heard()

    def task_scheduled(self, task: Task) -> None:
        """Note which thread nobody waits for any more."""
        if self.on_scheduled is not None:
            self.on_scheduled(task)

    def _heard(self) -> None:
        still = self._at_work & self._awaited().keys()
        for number in self._at_work - still:
            self._descriptors.spoke(number)
        if real_monotonic() - self._began >= SILENCE * 0.9:
            self._descriptors.gave_up(still)

    def _awaited(self) -> dict[int, bool]:
        registered = self._runner.io_manager._registered  # noqa: SLF001 - see the module
        own = self._runner.entry_queue.wakeup.wakeup_sock.fileno()
        found: dict[int, bool] = {}
        for key, waiters in registered.items():
            if isinstance(key, tuple):  # kqueue: one entry a direction
                number, writing = key[0], key[1] == _KQUEUE_WRITE
            elif waiters.read_task is None and waiters.write_task is None:
                continue
            else:
                number, writing = key, waiters.write_task is not None
            if number != own:
                found[number] = writing or found.get(number, False)
        return found

    def _has_news(self) -> bool:
        queue = self._runner.entry_queue
        return bool(queue.queue or queue.idempotent_queue)

    def _help(self) -> None:
        self.seat.asked = False
        assert self._token is not None
        if self._stage.help is not None and self._stage.help(math.inf):
            self.seat.asked = True
            self._token.run_sync_soon(self._help)

    def _nudge(self) -> None:
        assert self._token is not None
        try:
            if self.seat.asked:
                self._token.run_sync_soon(self._help)
            else:
                self._token.run_sync_soon(_nothing, idempotent=True)
        except trio.RunFinishedError:
            return

    def _fail(self, error: Exception) -> None:
        def abort() -> None:
            def raise_it() -> NoReturn:
                raise error

            task = self._runner.main_task
            if task is not None and task._abort_func is not None:  # noqa: SLF001 - see the module
                task._attempt_abort(raise_it)  # noqa: SLF001 - see the module

        assert self._token is not None
        self._token.run_sync_soon(abort)

    def _explain(self) -> Iterator[str]:
        root = self._runner.main_task
        found = [root] if root is not None else []
        while found:
            task = found.pop(0)
            if place := where(awaited_frames(task.coro)):
                yield f"task {task.name}: {place}"
            for nursery in task.child_nurseries:
                found += sorted(nursery.child_tasks, key=lambda each: each.name)


def check() -> None:
    """Raise `SimulationError` if this trio is not the one this module knows."""
    run: Any = trio._core._run  # noqa: SLF001 - see the module
    known = all(hasattr(run, name) for name in ("GLOBAL_RUN_CONTEXT", "setup_runner", "_r"))
    known = known and hasattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING")
    known = known and all(hasattr(Task, name) for name in ("_attempt_abort", "_abort_func"))
    fields = set(run.Runner.__attrs_attrs__ and [each.name for each in run.Runner.__attrs_attrs__])
    known = known and fields >= {"entry_queue", "io_manager", "is_guest", "main_task", "waiting_for_idle"}
    if not known:
        raise SimulationError(f"trio {trio.__version__} is not one the virtual clock knows")


def _nothing() -> None:
    """Be a reason to look again."""
