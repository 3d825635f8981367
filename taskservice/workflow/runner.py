"""The runner: takes a run up, runs or replays its function, and writes how that ended."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from time import time
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from taskservice.errors import (
    MaxStepsError,
    PayloadError,
    PayloadSizeError,
    RunNotClaimableError,
    UnknownWorkflowError,
    WorkflowChangedError,
    WorkflowError,
    WorkflowExpiredError,
    WorkflowMisuseError,
    WorkflowOverError,
)
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow.context import AsyncWorkflowContext, WorkflowContext
from taskservice.workflow.emission import Flusher
from taskservice.workflow.leases import AbandonedRun, LeasedRun, LeaseKeeper
from taskservice.workflow.model import FailureReason
from taskservice.workflow.session import RunSession, SuspendedRun
from taskservice.workflow.store.base import apply_signal
from taskservice.workflow.transitions import Claim

if TYPE_CHECKING:
    from taskservice.workflow.definitions import WorkflowDefinition, WorkflowRegistry
    from taskservice.workflow.emission import EventFlusher
    from taskservice.workflow.leases import Keeper
    from taskservice.workflow.store.base import WorkflowStore

__all__ = ["WorkflowRunner"]

logger = logging.getLogger(__name__)

THREADS: Final = 40
LEFT: Final = "left"
_NOT_OURS: Final = (WorkflowExpiredError, WorkflowOverError, RunNotClaimableError)


class WorkflowRunner:
    """Executes runs of ``store`` whose workflows are in ``registry``; for any number of threads.

    Without ``keeper`` and ``flusher`` it has a thread of its own for each, once there is work for it.
    """

    def __init__(  # noqa: PLR0913 - by name
        self,
        store: WorkflowStore,
        registry: WorkflowRegistry,
        *,
        payload_limit: int = PAYLOAD_LIMIT,
        clock: Callable[[], float] = time,
        keeper: Keeper | None = None,
        flusher: EventFlusher | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._limit = payload_limit
        self._clock = clock
        self._keeper: Keeper = LeaseKeeper() if keeper is None else keeper
        self._flusher: EventFlusher = Flusher() if flusher is None else flusher
        self._threads: anyio.CapacityLimiter | None = None

    def execute(self, run_id: str) -> str:
        """Take the run up until it is over or asks something, in this thread.

        Returns its status then; ``left`` if somebody else has it now, or the code of the error for
        which it was not taken up at all.
        """
        claimed = self._claim(run_id)
        if isinstance(claimed, str):
            return claimed

        session, leased, definition = claimed
        with self._keeper.keep(leased):
            if definition.is_async:
                return anyio.run(self._drive_async, session, leased, definition)
            return self._drive(session, leased, definition)

    async def execute_async(self, run_id: str) -> str:
        """Do as `execute`, in this event loop; plain functions get a thread."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(THREADS)
        if self._store.local:
            claimed = self._claim(run_id)
        else:
            claimed = await to_thread.run_sync(self._claim, run_id)
        if isinstance(claimed, str):
            return claimed

        session, leased, definition = claimed
        with self._keeper.keep(leased):
            if definition.is_async:
                return await self._drive_async(session, leased, definition)
            return await to_thread.run_sync(
                self._drive, session, leased, definition, abandon_on_cancel=True, limiter=self._threads
            )

    def close(self) -> None:
        """End its threads."""
        self._keeper.close()
        self._flusher.close()

    def _claim(self, run_id: str) -> str | tuple[RunSession, LeasedRun, WorkflowDefinition]:
        try:
            run = apply_signal(self._store, run_id, Claim(worker=_worker()), now=self._clock()).run
        except _NOT_OURS as error:
            logger.info("workflow run %s not taken up: %s", run_id, error, extra={"run_id": run_id})
            return error.code

        leased = LeasedRun(self._store, run, clock=self._clock)
        session = RunSession(
            self._store,
            leased,
            self._store.journal(run_id),
            flusher=self._flusher,
            payload_limit=self._limit,
            clock=self._clock,
        )
        try:
            definition = self._registry.get(run.workflow)
        except UnknownWorkflowError as error:
            return self._write(session, leased, partial(self._fail, session, error))
        return session, leased, definition

    def _drive(self, session: RunSession, leased: LeasedRun, definition: WorkflowDefinition) -> str:
        context = WorkflowContext(session)
        try:
            value = definition.func(context, *leased.run.args, **leased.run.kwargs)
        except BaseException as error:
            end = self._end_of(session, error)
            if end is None:
                raise
        else:
            end = self._end_with(session, value)
        return self._write(session, leased, end)

    async def _drive_async(
        self, session: RunSession, leased: LeasedRun, definition: WorkflowDefinition
    ) -> str:
        context = AsyncWorkflowContext(session, local=self._store.local)
        try:
            value = await definition.func(context, *leased.run.args, **leased.run.kwargs)
        except BaseException as error:
            end = self._end_of(session, error)
            if end is None:
                raise
        else:
            end = self._end_with(session, value)
        if self._store.local:
            return self._write(session, leased, end)
        return await to_thread.run_sync(self._write, session, leased, end)

    def _end_of(self, session: RunSession, error: BaseException) -> Callable[[], None] | None:
        """Return how a run ends whose function raised ``error``; ``None`` if it is not to end by that."""
        fatal, suspension = session.fatal, session.suspension
        if fatal is not None:
            return lambda: self._fail(session, fatal)
        if suspension is not None and _is_only(error, SuspendedRun):
            return lambda: session.ask(suspension)
        if session.lost.is_set() or _is_only(error, AbandonedRun):
            return lambda: None
        if isinstance(error, Exception):
            return lambda: self._fail(session, error)
        return None  # the process ends, or the task was cancelled: the run goes on elsewhere

    def _end_with(self, session: RunSession, value: object) -> Callable[[], None]:
        fatal = session.fatal
        if fatal is None and session.suspension is not None:
            fatal = WorkflowMisuseError(
                f"the function went on after ctx.ask({session.suspension.question.prompt!r}) had left it: an "
                "`except BaseException` or a bare `except` took what suspends it; raise it again there"
            )
        if fatal is not None:
            return lambda: self._fail(session, fatal)
        return lambda: self._succeed(session, value)

    def _succeed(self, session: RunSession, value: object) -> None:
        try:
            session.succeed(value)
        except (WorkflowChangedError, PayloadError, PayloadSizeError) as error:
            self._fail(session, error)

    def _fail(self, session: RunSession, error: Exception) -> None:
        reason = _reason(error)
        session.fail(reason, error)
        logger.warning(
            "workflow run %s failed: %s",
            session.run_id,
            reason.value,
            exc_info=error,
            extra={"run_id": session.run_id},
        )

    def _write(self, session: RunSession, leased: LeasedRun, end: Callable[[], None]) -> str:
        session.close()
        try:
            end()
        except AbandonedRun:
            return LEFT
        return LEFT if leased.lost.is_set() else leased.run.status.value


def _reason(error: Exception) -> FailureReason:
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    return FailureReason.ERROR


_REASONS: Final[dict[type[WorkflowError], FailureReason]] = {
    WorkflowChangedError: FailureReason.CHANGED,
    MaxStepsError: FailureReason.MAX_STEPS,
    UnknownWorkflowError: FailureReason.UNKNOWN,
}


def _is_only(error: BaseException, kind: type[BaseException]) -> bool:
    # A task group that the function was in makes a group of it.
    if isinstance(error, BaseExceptionGroup):
        return all(_is_only(each, kind) for each in error.exceptions)

    return isinstance(error, kind)


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
