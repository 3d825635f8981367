"""In-process back end: runs are tasks of a task group that the service owns.

``async`` functions run in the event loop, plain ones in worker threads. Nothing is stored outside
the process, and what is kept of finished runs is bounded by count and by age.
"""

# ruff: noqa: D102 - TaskBackend documents the contract, once

from __future__ import annotations

import logging
import math
from collections import deque
from time import time
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import anyio
import anyio.lowlevel
from anyio import to_thread

from taskservice.backends.attempts import Arguments, Attempt, AttemptAgain, attempt_of
from taskservice.backends.base import BackendCapability, BackendHealth
from taskservice.backends.calls import function_name, prepare_arguments, require_open
from taskservice.backends.calls_many import checked_calls, checked_per_message, prepare_calls
from taskservice.backends.records import AnyIOHandle, RunRecord
from taskservice.errors import RunCancelledError, RunNotFoundError
from taskservice.payloads import wire_value
from taskservice.runs import RunEvent, RunEventKind, RunListener, TaskHandle, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup

    from taskservice.backends.base import TaskFunction
    from taskservice.backends.calls_many import Calls

__all__ = ["AnyIOBackend"]

logger = logging.getLogger(__name__)

SHARE: Final = 500
"""How many calls are looked at before others get a turn of the event loop."""
CAPABILITIES: Final = frozenset(BackendCapability) - {BackendCapability.DURABLE}


class AnyIOBackend:
    """Runs tasks in this process, on the event loop it was opened in.

    ``retention_count`` and ``retention`` (seconds) bound what is kept of finished runs, ``grace``
    (seconds) how long closing waits, ``threads`` how many plain functions run at once.
    """

    name = "anyio"
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        retention_count: int = 1000,
        retention: float = 3600.0,
        grace: float = 5.0,
        threads: int = 40,
        listener: RunListener | None = None,
    ) -> None:
        self._retention_count = retention_count
        self._retention = retention
        self._grace = grace
        self._threads = threads
        self._listener = listener
        self._records: dict[str, RunRecord] = {}
        self._finished: deque[tuple[float, str]] = deque()
        self._group: TaskGroup | None = None
        self._open = False

    async def __aenter__(self) -> Self:
        self._slots = anyio.Semaphore(self._threads)
        self._unlimited = anyio.CapacityLimiter(math.inf)
        self._group = await anyio.create_task_group().__aenter__()
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Somebody who leaves by an error does not want to wait for the rest.
        grace = self._grace if exc_type is None else 0.0
        with anyio.CancelScope(shield=True):
            await self._finish(grace)

        group, self._group = self._group, None
        if group is not None:
            # Runs keep their errors, and the caller's own must not come back inside a group.
            await group.__aexit__(None, None, None)

    async def launch_task(
        self,
        func: TaskFunction,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | None = None,
    ) -> TaskHandle:
        require_open(self._open, "AnyIO back end")
        positional, named = prepare_arguments(func, args, kwargs or {})
        arguments = Arguments(args=positional, kwargs=named)
        return self._start(function_name(func), attempt_of(func), arguments, countdown or 0.0)

    async def launch_many(
        self, func: TaskFunction, calls: Calls, *, per_message: int = 1
    ) -> list[TaskHandle]:
        require_open(self._open, "AnyIO back end")
        checked_per_message(per_message)
        given = checked_calls(calls)
        prepared: list[Arguments] = []
        for start in range(0, len(given), SHARE):
            for args, kwargs in prepare_calls(func, given[start : start + SHARE], first=start):
                prepared.append(Arguments(args=args, kwargs=kwargs))
            await anyio.lowlevel.checkpoint()

        # It may have been closed at a checkpoint. From here on there is none: all start, or none.
        require_open(self._open, "AnyIO back end")
        name, attempt = function_name(func), attempt_of(func)
        return [self._start(name, attempt, arguments, 0.0) for arguments in prepared]

    def _start(self, name: str, attempt: Attempt, arguments: Arguments, countdown: float) -> AnyIOHandle:
        assert self._group is not None
        record = RunRecord(run_id=str(uuid4()), task=name)
        self._records[record.id] = record
        self._tell(RunEventKind.SENT, record)
        self._group.start_soon(self._drive, record, attempt, arguments, countdown)
        return AnyIOHandle(record)

    async def get_task(self, task_id: str) -> TaskHandle:
        require_open(self._open, "AnyIO back end")
        self._forget_old(anyio.current_time())
        try:
            return AnyIOHandle(self._records[task_id])
        except KeyError:
            raise RunNotFoundError(task_id) from None

    async def health(self) -> BackendHealth:
        if not self._open:
            return BackendHealth(healthy=False, detail="closed")

        waiting = len(self._records) - len(self._finished)
        return BackendHealth(healthy=True, detail=f"in process, {waiting} runs not over")

    async def close(self) -> None:
        await self._finish(self._grace)

    async def _finish(self, grace: float) -> None:
        self._open = False
        unfinished = [record for record in self._records.values() if not record.state.final]
        with anyio.move_on_after(grace):
            for record in unfinished:
                await record.done.wait()

        cancelled = [record for record in unfinished if not record.state.final]
        for record in cancelled:
            record.scope.cancel()
            logger.warning("run %s cancelled by closing", record.id, extra={"run_id": record.id})

    async def _drive(
        self, record: RunRecord, attempt: Attempt, arguments: Arguments, countdown: float
    ) -> None:
        try:
            with record.scope:
                if countdown > 0:
                    await anyio.sleep(countdown)
                await self._repeat(record, attempt, arguments)
        finally:
            if not record.state.final:
                record.end(TaskState.REVOKED, error=RunCancelledError(record.id))
            self._settle(record)

    async def _repeat(self, record: RunRecord, attempt: Attempt, arguments: Arguments) -> None:
        while (again := await self._attempt(record, attempt, arguments)) is not None:
            arguments = again.arguments or arguments
            record.state = TaskState.RETRY
            self._tell(RunEventKind.RETRIED, record, detail=f"{again.delay:g} s after {again.detail}")
            await anyio.sleep(again.delay)

    async def _attempt(
        self, record: RunRecord, attempt: Attempt, arguments: Arguments
    ) -> AttemptAgain | None:
        try:
            value = wire_value(await self._call(record, attempt, arguments), "result")
        except Exception as error:  # noqa: BLE001 - the boundary that records what a task raises
            again = attempt.again(error, record.attempts)
            if again is None:
                record.end(TaskState.FAILURE, error=error)
            return again

        record.end(TaskState.SUCCESS, value=value)
        return None

    async def _call(self, record: RunRecord, attempt: Attempt, arguments: Arguments) -> Any:
        if not attempt.in_thread:
            self._begin(record)
            return await attempt.call(record.id, arguments, record.attempts)

        # A run without a free thread has not started, and can still be cancelled.
        async with self._slots:
            self._begin(record)
            record.in_thread = True
            try:
                return await to_thread.run_sync(
                    attempt.call,
                    record.id,
                    arguments,
                    record.attempts,
                    abandon_on_cancel=True,  # only closing cancels here; see AnyIOHandle.cancel
                    limiter=self._unlimited,
                )
            finally:
                record.in_thread = False

    def _begin(self, record: RunRecord) -> None:
        record.attempts += 1
        record.state = TaskState.STARTED
        self._tell(RunEventKind.STARTED, record)

    def _settle(self, record: RunRecord) -> None:
        now = anyio.current_time()
        self._finished.append((now, record.id))
        self._forget_old(now)
        record.done.set()
        detail = "" if record.error is None else repr(record.error)
        self._tell(_ENDINGS[record.state], record, detail=detail)

    def _forget_old(self, now: float) -> None:
        finished = self._finished
        while finished and (len(finished) > self._retention_count or now - finished[0][0] > self._retention):
            _, run_id = finished.popleft()
            del self._records[run_id]

    def _tell(self, kind: RunEventKind, record: RunRecord, *, detail: str = "") -> None:
        if self._listener is None:
            return

        event = RunEvent(
            kind=kind,
            at=time(),
            run=record.id,
            task=record.task,
            attempt=record.attempts,
            detail=detail,
        )
        try:
            self._listener(event)
        except Exception:
            logger.exception("run listener failed", extra={"run_id": record.id})


_ENDINGS: Final = {
    TaskState.SUCCESS: RunEventKind.SUCCEEDED,
    TaskState.FAILURE: RunEventKind.FAILED,
    TaskState.REVOKED: RunEventKind.REVOKED,
}
