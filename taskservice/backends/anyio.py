"""In-process back end: runs are tasks of a task group that the service owns.

``async`` functions run in the event loop, plain ones in worker threads. Nothing is stored outside
the process, and what is kept of finished runs is bounded by count and by age.
"""

# ruff: noqa: D102 - TaskBackend documents the contract, once

from __future__ import annotations

import logging
import math
import os
from collections import deque
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.lowlevel
from anyio import to_thread

from taskservice.backends.attempts import Arguments, Attempt, AttemptAgain, attempt_of
from taskservice.backends.base import BackendCapability, BackendHealth
from taskservice.backends.calls import function_name, own_expires, prepare_arguments, require_open
from taskservice.backends.calls_many import checked_calls, checked_per_message, prepare_calls
from taskservice.backends.canvas.foreign import own_canvas
from taskservice.backends.canvas.handle import CanvasHandle
from taskservice.backends.canvas.local import LocalCanvas, LocalRuns, plan_attempts
from taskservice.backends.canvas.plan import Plan, plan_canvas
from taskservice.backends.groups import RunGroup, open_group
from taskservice.backends.idempotency import LocalKeys, key_of
from taskservice.backends.letters import MemoryLetters, StoredDeadLetters, letter_of
from taskservice.backends.records import AnyIOHandle, RunRecord
from taskservice.backends.turns import Turn, Turns
from taskservice.errors import (
    RunCancelledError,
    RunExpiredError,
    RunFailedError,
    RunNotFoundError,
    TimeLimitError,
)
from taskservice.health import WorkerHealth, pool_state
from taskservice.payloads import PAYLOAD_LIMIT, wire_value
from taskservice.runs import RunEvent, RunEventKind, RunListener, TaskHandle, TaskState, new_run_id
from taskservice.submission import AT_ONCE, LaunchOptions, LaunchPlan, plan_launch
from taskservice.texts import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from taskservice.backends.base import AnyCanvas, TaskFunction
    from taskservice.backends.calls_many import Calls
    from taskservice.deadletters import DeadLetter, DeadLetters

__all__ = ["AnyIOBackend"]

logger = logging.getLogger(__name__)

SHARE: Final = 500
"""How many calls are looked at before others get a turn of the event loop."""
# Nothing waits here for somebody to take it, so there is no queue to choose and no order to change.
MISSING: Final = frozenset(
    {
        BackendCapability.DURABLE,
        BackendCapability.PRIORITIES,
        BackendCapability.QUEUES,
        BackendCapability.TERMINATE,
    }
)
CAPABILITIES: Final = frozenset(BackendCapability) - MISSING


class AnyIOBackend:
    """Runs tasks in this process, on the event loop it was opened in.

    ``retention_count`` and ``retention`` (seconds) bound what is kept of finished runs, ``grace``
    (seconds) how long closing waits, ``threads`` how many plain functions run at once, ``payload_limit``
    (bytes) arguments and results, ``dead_letter_count`` and ``dead_letter_retention`` (seconds) what is kept
    of failed runs.
    """

    name = "anyio"
    capabilities = CAPABILITIES

    def __init__(  # noqa: PLR0913 - all optional, all by name
        self,
        *,
        retention_count: int = 1000,
        retention: float = 3600.0,
        grace: float = 5.0,
        threads: int = 40,
        payload_limit: int = PAYLOAD_LIMIT,
        dead_letter_count: int = 10_000,
        dead_letter_retention: float = 604_800.0,
        listener: RunListener | None = None,
    ) -> None:
        self._retention_count = retention_count
        self._retention = retention
        self._grace = grace
        self._threads = threads
        self._limit = payload_limit
        self._listener = listener
        self._letters = MemoryLetters(count=dead_letter_count, seconds=dead_letter_retention)
        self._records: dict[str, RunRecord] = {}
        self._keys = LocalKeys()
        self._finished: deque[tuple[float, str]] = deque()
        self._group: RunGroup | None = None
        self._open = False

    @property
    def dead_letters(self) -> DeadLetters:
        return StoredDeadLetters(self._letters, relaunch=self._relaunch, check_open=self._require_open)

    async def __aenter__(self) -> Self:
        self._slots = anyio.Semaphore(self._threads)
        self._unlimited = anyio.CapacityLimiter(math.inf)
        self._group = await open_group()
        self._turns = Turns(self._group)
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
            await group.join()

    async def launch_task(
        self,
        func: TaskFunction,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: LaunchOptions = AT_ONCE,
    ) -> TaskHandle:
        require_open(self._open, "AnyIO back end")
        positional, named = prepare_arguments(func, args, kwargs or {}, limit=self._limit)
        arguments = Arguments(args=positional, kwargs=named)
        plan = plan_launch(options, expires=own_expires(func))
        key = key_of(func, positional, named, options)
        return self._start(function_name(func), attempt_of(func), arguments, plan, key=key)

    async def launch_many(
        self, func: TaskFunction, calls: Calls, *, per_message: int = 1
    ) -> list[TaskHandle]:
        require_open(self._open, "AnyIO back end")
        checked_per_message(per_message)
        given = checked_calls(calls)
        prepared: list[Arguments] = []
        for start in range(0, len(given), SHARE):
            share = given[start : start + SHARE]
            for args, kwargs in prepare_calls(func, share, first=start, limit=self._limit):
                prepared.append(Arguments(args=args, kwargs=kwargs))
            await anyio.lowlevel.checkpoint()

        # It may have been closed at a checkpoint. From here on there is none: all start, or none.
        require_open(self._open, "AnyIO back end")
        name, attempt = function_name(func), attempt_of(func)
        plan = plan_launch(AT_ONCE, expires=own_expires(func))
        keys = [key_of(func, arguments.args, arguments.kwargs) for arguments in prepared]
        return [
            self._start(name, attempt, arguments, plan, key=key)
            for arguments, key in zip(prepared, keys, strict=True)
        ]

    async def launch_canvas(self, canvas: AnyCanvas) -> CanvasHandle:
        require_open(self._open, "AnyIO back end")
        # Thousands of arguments to be checked would hold up the event loop.
        plan = await to_thread.run_sync(self._plan_canvas, canvas)
        attempts = plan_attempts(plan)
        require_open(self._open, "AnyIO back end")
        local = LocalCanvas(plan, attempts, start=self._start_record, settle=self._settle_unstarted)
        self._records.update({record.id: record for record in local.records})
        local.begin()
        return CanvasHandle(plan, LocalRuns(local.records))

    def _plan_canvas(self, canvas: AnyCanvas) -> Plan:
        return plan_canvas(own_canvas(canvas), limit=self._limit)

    def _start(  # noqa: PLR0913 - one run, and all of it
        self,
        name: str,
        attempt: Attempt,
        arguments: Arguments,
        plan: LaunchPlan,
        *,
        key: str | None = None,
        run_id: str | None = None,
    ) -> AnyIOHandle:
        if key is not None and (known := self._keys.run_of(key)) is not None:
            return AnyIOHandle(self._records[known])

        record = RunRecord(run_id=run_id or new_run_id(), task=name)
        self._records[record.id] = record
        if key is not None:
            self._keys.keep(key, record.id)
        self._start_record(record, attempt, arguments, plan)
        return AnyIOHandle(record)

    def _start_record(
        self, record: RunRecord, attempt: Attempt, arguments: Arguments, plan: LaunchPlan
    ) -> None:
        self._tell(RunEventKind.SENT, record)
        record.turn = Turn(self._drive, record, attempt, arguments, plan)
        self._turns.add(record.turn)

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
        used = self._threads - self._slots.value
        worker = WorkerHealth(
            name="this process",
            pid=os.getpid(),
            age=0.0,
            pool="anyio",
            pool_state=pool_state(slots=self._threads, running=used, silent=0.0, timeout=math.inf),
            slots=self._threads,
            running=used,
        )
        detail = f"in process, {waiting} runs not over, {used} of {self._threads} threads in use"
        return BackendHealth(healthy=True, detail=detail, workers=(worker,))

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
            record.stop()
            logger.warning("run %s cancelled by closing", record.id, extra={"run_id": record.id})

    async def _drive(
        self, record: RunRecord, attempt: Attempt, arguments: Arguments, plan: LaunchPlan
    ) -> None:
        try:
            if record.stopped:  # before its turn came
                return
            if plan.delay > 0:
                await anyio.sleep(plan.delay)
            await self._repeat(record, attempt, arguments, plan)
        finally:
            if not record.state.final:
                record.end(TaskState.REVOKED, error=RunCancelledError(record.id))
            self._settle(record)

    async def _repeat(
        self, record: RunRecord, attempt: Attempt, arguments: Arguments, plan: LaunchPlan
    ) -> None:
        while (again := await self._attempt(record, attempt, arguments, plan)) is not None:
            arguments = again.arguments or arguments
            record.state = TaskState.RETRY
            self._tell(RunEventKind.RETRIED, record, detail=f"{again.delay:g} s after {again.detail}")
            await anyio.sleep(again.delay)

    async def _attempt(
        self, record: RunRecord, attempt: Attempt, arguments: Arguments, plan: LaunchPlan
    ) -> AttemptAgain | None:
        try:
            value = await self._call(record, attempt, arguments, plan)
            value = wire_value(value, "result", limit=self._limit)
        except _ExpiredError:
            record.end(TaskState.REVOKED, error=RunExpiredError(record.id))
            return None
        except Exception as error:  # noqa: BLE001 - the boundary that records what a task raises
            again = attempt.again(error, record.attempts)
            if again is None:
                record.end(TaskState.FAILURE, error=error)
                self._keep_letter(record, attempt, arguments, error)
            return again

        record.end(TaskState.SUCCESS, value=value)
        return None

    async def _call(self, record: RunRecord, attempt: Attempt, arguments: Arguments, plan: LaunchPlan) -> Any:
        if not attempt.in_thread:
            self._begin(record, plan)
            try:
                return await attempt.call(record.id, arguments, record.attempts)
            except BaseException as error:
                # A group may be of those that cancel.
                leaving = (KeyboardInterrupt, GeneratorExit, BaseExceptionGroup)
                if isinstance(error, (Exception, anyio.get_cancelled_exc_class(), *leaving)):
                    raise
                raise _ending(error) from error

        # A run without a free thread has not started, and can still be cancelled.
        await self._take_slot(plan)
        try:
            self._begin(record, plan)
            record.in_thread = True
            return await self._call_in_thread(record, attempt, arguments)
        finally:
            record.in_thread = False
            self._slots.release()

    async def _take_slot(self, plan: LaunchPlan) -> None:
        if plan.expires is None:
            await self._slots.acquire()
            return

        with anyio.move_on_after((plan.expires - datetime.now(tz=UTC)).total_seconds()):
            await self._slots.acquire()
            return
        raise _ExpiredError

    async def _call_in_thread(self, record: RunRecord, attempt: Attempt, arguments: Arguments) -> Any:
        limit = attempt.limit
        with anyio.move_on_after(math.inf if limit is None else limit):
            return await to_thread.run_sync(
                partial(_call_contained, attempt.call, anyio.get_cancelled_exc_class()),
                record.id,
                arguments,
                record.attempts,
                abandon_on_cancel=True,  # only closing and the limit cancel here; see AnyIOHandle.cancel
                limiter=self._unlimited,
            )
        raise TimeLimitError(limit)

    def _begin(self, record: RunRecord, plan: LaunchPlan) -> None:
        if plan.expires is not None and plan.expired(datetime.now(tz=UTC)):
            raise _ExpiredError

        record.attempts += 1
        record.state = TaskState.STARTED
        self._tell(RunEventKind.STARTED, record)

    def _keep_letter(
        self, record: RunRecord, attempt: Attempt, arguments: Arguments, error: Exception
    ) -> None:
        letter = letter_of(
            attempt.func,
            error,
            run_id=record.id,
            name=record.task,
            args=arguments.args,
            kwargs=arguments.kwargs,
            attempts=record.attempts,
        )
        self._letters.add(letter, (attempt, arguments))

    async def _relaunch(self, letter: DeadLetter) -> TaskHandle:
        attempt, arguments = self._letters.again(letter)
        # The old end of this run must not be the reason to forget the new one.
        self._finished = deque(ended for ended in self._finished if ended[1] != letter.id)
        plan = plan_launch(AT_ONCE, expires=own_expires(attempt.func))
        return self._start(letter.task, attempt, arguments, plan, run_id=letter.id)

    def _require_open(self) -> None:
        require_open(self._open, "AnyIO back end")

    def _settle(self, record: RunRecord) -> None:
        detail = "" if record.error is None else text_of(record.error, repr)
        self._tell(_ENDINGS[record.state], record, detail=detail)
        self._settle_unstarted(record)

    def _settle_unstarted(self, record: RunRecord) -> None:
        # Nothing happened to a run that was never sent, so listeners hear nothing.
        now = anyio.current_time()
        self._finished.append((now, record.id))
        self._forget_old(now)
        record.wake()

    def _forget_old(self, now: float) -> None:
        finished = self._finished
        while finished and (len(finished) > self._retention_count or now - finished[0][0] > self._retention):
            _, run_id = finished.popleft()
            del self._records[run_id]
            self._keys.forget(run_id)

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


def _call_contained(call: Callable[..., Any], cancelled: type[BaseException], *args: Any) -> Any:
    """Call it; what would end a thread or a process, as ``sys.exit()`` does, ends this run and no other."""
    try:
        return call(*args)
    except (Exception, cancelled):
        raise
    except BaseException as error:
        raise _ending(error) from error


def _ending(error: BaseException) -> RunFailedError:
    # Raised as it is, it would end the event loop of whoever waits for the run.
    return RunFailedError(type(error).__qualname__, text_of(error))


class _ExpiredError(Exception):
    """Never a function's own, as `RunExpiredError` of another run may be."""


_ENDINGS: Final = {
    TaskState.SUCCESS: RunEventKind.SUCCEEDED,
    TaskState.FAILURE: RunEventKind.FAILED,
    TaskState.REVOKED: RunEventKind.REVOKED,
}
