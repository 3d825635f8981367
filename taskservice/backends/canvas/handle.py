"""The handle on a canvas: one for every back end, made of the handles on its runs."""

# ruff: noqa: D102 - TaskHandle documents the contract, once

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.lowlevel

from taskservice.backends.canvas.progress import Progress
from taskservice.errors import ResultTimeoutError
from taskservice.runs import TaskHandle, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from taskservice.backends.canvas.plan import Plan
    from taskservice.backends.remote import RemoteOutcome
    from taskservice.runs import RunWatcher

__all__ = ["CanvasHandle", "Member", "Members"]


class Member(TaskHandle, Protocol):
    """A handle on one run of a canvas, which says what it knows without asking anybody."""

    def seen(self) -> RemoteOutcome:
        """Return what is known; where a worker has the run, PENDING until its end was heard of."""

    def presume(self, outcome: RemoteOutcome) -> None:
        """Take ``outcome`` for its end; Celery counts an attempt of a run that another's failure ended."""


class Members(Protocol):
    """All runs of a canvas, in the order in which they were written."""

    @property
    def handles(self) -> Sequence[Member]:
        """The handle of each."""

    async def look(self) -> list[RemoteOutcome]:
        """Return how each one is now; in as few steps as can be."""

    async def stop(self, *, terminate: bool) -> bool:
        """Stop all that can be stopped, and return whether one was."""


class CanvasHandle:
    """A handle on a canvas; see `TaskBackend.launch_canvas` for what its methods mean."""

    def __init__(self, plan: Plan, members: Members) -> None:
        self._plan = plan
        self._members = members
        self._final: RemoteOutcome | None = None
        self._traceback: TracebackType | None = None

    @property
    def id(self) -> str:
        return self._plan.id

    @property
    def runs(self) -> list[TaskHandle]:
        """The handles of all runs, in the order in which they were written."""
        return list(self._members.handles)

    async def status(self) -> TaskState:
        if self._final is not None:
            return self._final.state

        seen = await self._members.look()
        final = self._judge(seen)
        if final is not None:
            return final.state
        begun = any(each.state is not TaskState.PENDING for each in seen)
        return TaskState.STARTED if begun else TaskState.PENDING

    async def result(self, timeout: float | None = None) -> Any:
        await self._wait(timeout)
        final = self._judge(await self._members.look()) if self._final is None else self._final
        if final is None:
            seconds = 0.0 if timeout is None else timeout
            raise ResultTimeoutError(self.id, self._plan.name, seconds, await self.status())

        if final.error is not None:
            # Each waiter starts from the run's own traceback: they would add to it for ever.
            raise final.error.with_traceback(self._traceback)
        return final.value

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        if self._final is not None:
            watcher(None)
            return _nothing

        watch = _Watch(self._plan, watcher)
        watch.begin(self._members.handles)
        return watch.leave

    async def exception(self) -> BaseException | None:
        await self.status()
        return None if self._final is None else self._final.error

    async def ready(self) -> bool:
        return (await self.status()).final

    async def attempts(self) -> int:
        # Once the end is known, so is which runs never started.
        await self.status()
        return sum(each.attempts for each in await self._members.look())

    async def cancel(self, *, terminate: bool = False) -> bool:
        if await self.ready():
            return False

        return await self._members.stop(terminate=terminate)

    async def _wait(self, timeout: float | None) -> None:
        if self._final is not None:
            await anyio.lowlevel.checkpoint()
            return

        over = anyio.Event()
        errors: list[Exception] = []

        def take(error: Exception | None) -> None:
            if error is not None:
                errors.append(error)
            over.set()

        leave = self.watch(take)
        try:
            with anyio.move_on_after(float("inf") if timeout is None else timeout):
                await over.wait()
        finally:
            leave()
        if errors:
            raise errors[0]

    def _judge(self, seen: list[RemoteOutcome]) -> RemoteOutcome | None:
        # In written order, so that the same runs come to the same error whoever was heard of first.
        progress = Progress(self._plan)
        for run, outcome in zip(self._plan.runs, seen, strict=True):
            progress.note(run.id, outcome)
        if self._final is None and progress.outcome is not None:
            self._final = progress.outcome
            self._traceback = getattr(self._final.error, "__traceback__", None)
            handles = {handle.id: handle for handle in self._members.handles}
            for run, outcome in progress.skipped:
                handles[run.id].presume(outcome)
        return self._final


class _Watch:
    """Follows the runs of one canvas for one watcher."""

    def __init__(self, plan: Plan, watcher: RunWatcher) -> None:
        self._progress = Progress(plan)
        self._watcher = watcher
        self._leave: list[Callable[[], None]] = []
        self._told = False

    def begin(self, handles: Sequence[Member]) -> None:
        for handle in handles:
            if self._told:
                return
            self._leave.append(handle.watch(self._taker(handle)))
        if self._told:
            self.leave()

    def leave(self) -> None:
        self._told = True
        leave, self._leave = self._leave, []
        for step_back in leave:
            step_back()

    def _taker(self, handle: Member) -> RunWatcher:
        def take(error: Exception | None) -> None:
            if self._told:
                return
            if error is None:
                self._progress.note(handle.id, handle.seen())
                if self._progress.outcome is None:
                    return
            self.leave()
            self._watcher(error)

        return take


def _nothing() -> None:
    """Take nothing back: it was told at once."""
