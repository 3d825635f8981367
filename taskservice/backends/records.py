"""What is known in process about one run, and the handle that shows it."""

# ruff: noqa: D102 - TaskHandle documents the contract, once

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from taskservice.backends.remote import RemoteOutcome
from taskservice.errors import ResultTimeoutError
from taskservice.runs import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from taskservice.backends.turns import Turn
    from taskservice.runs import RunWatcher

__all__ = ["AnyIOHandle", "RunRecord"]


class RunRecord:
    """One in-process run; only the event loop that runs it writes here."""

    __slots__ = (
        "_done",
        "attempts",
        "error",
        "id",
        "in_thread",
        "over",
        "state",
        "stopped",
        "task",
        "traceback",
        "turn",
        "value",
        "watchers",
        "withdraw",
    )

    def __init__(self, *, run_id: str, task: str) -> None:
        self.id = run_id
        self.task = task
        self.state = TaskState.PENDING
        self.attempts = 0
        self.in_thread = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.traceback: TracebackType | None = None
        self.over = False
        self.stopped = False
        self.turn: Turn | None = None
        self._done: anyio.Event | None = None
        self.watchers: list[Callable[[], object]] = []
        self.withdraw: Callable[[], None] | None = None

    @property
    def done(self) -> anyio.Event:
        """Set once it is over; made when first asked for, since most runs end before anybody waits."""
        if self._done is None:
            self._done = anyio.Event()
            if self.over:
                self._done.set()
        return self._done

    def end(self, state: TaskState, *, value: Any = None, error: BaseException | None = None) -> None:
        """Write the outcome; waiters are woken by ``done``."""
        self.state = state
        self.value = value
        self.error = error
        self.traceback = error.__traceback__ if error is not None else None

    def stop(self) -> None:
        """Have it end as REVOKED: at its next await, or at once if it still waits for its turn."""
        self.stopped = True
        if self.withdraw is not None:
            self.withdraw()
        elif self.turn is not None:
            self.turn.cancel()

    def wake(self) -> None:
        """Tell everybody who waits that it is over."""
        self.over = True
        self.turn = None
        if self._done is not None:
            self._done.set()
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher()


class AnyIOHandle:
    """A handle on a run of this process."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record

    @property
    def id(self) -> str:
        return self._record.id

    async def status(self) -> TaskState:
        return self._record.state

    async def result(self, timeout: float | None = None) -> Any:
        record = self._record
        if record.over:
            await anyio.lowlevel.checkpoint_if_cancelled()
        elif timeout is None:
            await record.done.wait()
        else:
            with anyio.move_on_after(timeout):
                await record.done.wait()

        if not record.state.final:
            seconds = 0.0 if timeout is None else timeout
            raise ResultTimeoutError(record.id, record.task, seconds, record.state)
        if record.error is not None:
            # Each waiter starts from the run's own traceback: they would add to it for ever.
            raise record.error.with_traceback(record.traceback)
        return record.value

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        record = self._record

        def wake() -> None:
            watcher(None)

        if record.over:
            wake()
        else:
            record.watchers.append(wake)

        def leave() -> None:
            with suppress(ValueError):  # it was told already
                record.watchers.remove(wake)

        return leave

    def seen(self) -> RemoteOutcome:
        """See `Member`; nobody knows more."""
        record = self._record
        return RemoteOutcome(
            state=record.state, value=record.value, error=record.error, attempts=record.attempts
        )

    def presume(self, outcome: RemoteOutcome) -> None:
        """See `Member`; the record was told already."""

    async def exception(self) -> BaseException | None:
        return self._record.error

    async def ready(self) -> bool:
        return self._record.state.final

    async def attempts(self) -> int:
        return self._record.attempts

    async def cancel(self, *, terminate: bool = False) -> bool:
        record = self._record
        if record.state.final or record.in_thread:
            return False

        record.stop()
        await record.done.wait()
        return record.state is TaskState.REVOKED
