"""Contexts: what a workflow function is handed. One for plain functions, one for ``async`` ones.

Both are thin callers of a `RunSession`, and differ in nothing but how they wait.
"""

from __future__ import annotations

import random
import threading
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable, iscoroutine
from time import time
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from taskservice.backends.attempts import retry_delay
from taskservice.backends.loops import current_notifier
from taskservice.submission import check_seconds
from taskservice.workflow.model import EntryKind, JournalEntry, Question
from taskservice.workflow.replay import Request
from taskservice.workflow.schemas import AnswerSchema
from taskservice.workflow.session import Suspension
from taskservice.workflow.steps import StepCall, StepInfo, step_call, telling
from taskservice.workflow.values import json_value, rebuilt_error

if TYPE_CHECKING:
    from taskservice.tasks import RetryPolicy
    from taskservice.workflow.session import RunSession

__all__ = ["AsyncWorkflowContext", "WorkflowContext"]

NOW = "ctx.now"
RANDOM = "ctx.random"


class _Context:
    """What both contexts share."""

    def __init__(self, session: RunSession) -> None:
        self._session = session
        self._home = self._here()

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._session.run_id

    @property
    def owner(self) -> str:
        """Whose run it is, as given at its start."""
        return self._session.owner

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return self._session.workflow

    @staticmethod
    @abstractmethod
    def _here() -> int: ...

    def _guard(self, what: str) -> None:
        # Whoever else calls has no place in the order of the journal.
        if self._here() != self._home:
            self._session.misuse(
                f"{what} was called from another thread or task than the workflow's own: its calls are "
                "journaled in their order; let threads and tasks work inside a step"
            )
        self._session.check_outside_step(what)

    def _guard_emit(self) -> None:
        self._session.check("ctx.emit")

    def _key(self, call: StepCall) -> str:
        return f"{self.run_id}:{self._session.index}" if call.key is None else call.key

    def _suspend(self, question: Question, name: str, timeout: float | None) -> None:
        self._session.suspend(Suspension(question=question, name=name, timeout=timeout))

    def _question(self, prompt: str, schema: AnswerSchema, data: Any, problem: str = "") -> Question:
        return Question(
            id=self._session.new_question_id(),
            prompt=prompt,
            schema=schema.json_schema,
            data=json_value(data, "the question's data", limit=self._session.payload_limit),
            problem=problem,
        )

    def _answer(self, prompt: str, *, schema: Any, data: Any, timeout: float | None, name: str | None) -> Any:
        if timeout is not None:
            check_seconds("timeout", timeout)
        wanted = AnswerSchema(schema)
        entry = self._session.recall(Request(kind=EntryKind.ASK, name=name or prompt))
        if entry is None:
            self._suspend(self._question(prompt, wanted, data), name or prompt, timeout)
            raise AssertionError  # suspending never returns

        value, problem = wanted.check(entry.value)
        if problem and self._session.can_ask_again():
            self._suspend(self._question(prompt, wanted, data, problem), name or prompt, timeout)
        if problem:
            self._session.misuse(
                f"the answer to {prompt!r}, taken before, does not fit its schema any more: {problem}; let "
                "the schema of a running workflow take what it took"
            )
        self._session.advance()
        return value

    def _replayed(self, entry: JournalEntry) -> Any:
        self._session.advance()
        if entry.error is not None:
            raise rebuilt_error(entry.error)
        return entry.value


class WorkflowContext(_Context):
    """The first argument of a plain workflow function, for its own thread and until it is left.

    Everything it hands out is journaled in order: when the run goes on, the function is run from its
    top again and gets the same values. What varies by itself, such as time, chance and the world outside,
    belongs in a step.
    """

    @staticmethod
    def _here() -> int:
        return threading.get_ident()

    def step(
        self,
        func: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call ``func(*args, **kwargs)`` once, and return what it returned whenever the run goes on.

        The value must be JSON. A function that takes ``idempotency_key`` gets ``key``, by default
        ``<run id>:<index>``: a step that a crash cut short is done again with the same one. An error is
        journaled too, after the attempts of ``retry``, and raised again as it was; as `StepFailedError`
        if it cannot be rebuilt from its arguments.
        """
        self._guard("ctx.step")
        call = step_call(func, args, kwargs, key=key, retry=retry)
        if call.is_async:
            self._session.misuse(
                f"step {call.name!r} is async: make the workflow function async, and await it"
            )
        return self._step(call)

    def ask(
        self,
        prompt: str,
        *,
        schema: Any = None,
        data: Any = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> Any:
        """Ask the run's user, and return the answer, as ``schema`` makes it.

        The function is left until then: the run holds no worker, thread or memory. ``schema`` is a
        pydantic model or any type, ``None`` takes any JSON; ``data`` goes to the client with the
        ``prompt``. Without an answer in ``timeout`` seconds, by default the workflow's ``input``, the run
        ends as ``input_timeout``. An answer that does not fit is asked for again. ``name`` is what
        the journal knows the question by, and lets the prompt vary.
        """
        self._guard("ctx.ask")
        return self._answer(prompt, schema=schema, data=data, timeout=timeout, name=name)

    def emit(self, kind: str, data: Any = None, *, coalesce: bool = False) -> None:
        """Tell the run's clients something; each event once, however often the function is run.

        With ``coalesce`` neighbours of one kind may arrive as one: texts joined, or dicts joined by
        their ``text`` or ``delta``. It may be called inside a step, by any thread.
        """
        self._guard_emit()
        if self._session.emit(kind, data, coalesce=coalesce, at_once=True):
            self._session.flush()

    def now(self) -> datetime:
        """Return the time, in UTC; the same one whenever the run goes on."""
        self._guard("ctx.now")
        return datetime.fromtimestamp(self._step(step_call(time, (), {}, key=None, retry=None), NOW), UTC)

    def random(self) -> float:
        """Return a number from 0 up to 1; the same one whenever the run goes on."""
        self._guard("ctx.random")
        found = self._step(step_call(random.random, (), {}, key=None, retry=None), RANDOM)
        return float(found)

    def _step(self, call: StepCall, name: str | None = None) -> Any:
        name = name or call.name
        entry = self._session.recall(Request(kind=EntryKind.STEP, name=name))
        return self._perform(call, name) if entry is None else self._replayed(entry)

    def _perform(self, call: StepCall, name: str) -> Any:
        session, attempt = self._session, 0
        while True:
            attempt += 1
            session.check("ctx.step")
            if session.doubtful:  # this process was paused, maybe
                session.confirm()
            try:
                info = StepInfo(
                    run_id=self.run_id,
                    index=session.index,
                    name=name,
                    key=self._key(call),
                    attempt=attempt,
                    emit=self.emit,
                )
                with session.in_step(name), telling(info):
                    value = call.bound(info.key)()
                if isawaitable(value):
                    _dispose(value)
                    session.misuse(f"step {name!r} returned an awaitable: make the workflow function async")
                return session.record_value(name, value)
            except Exception as error:
                session.check("ctx.step")  # an error of the context's own is none of the step's
                delay = retry_delay(call.retry, error, attempt)
                if delay is None:
                    raise rebuilt_error(session.record_error(name, error)) from error
            self._pause(delay)

    def _pause(self, seconds: float) -> None:
        # Wakes up when the run is stopped.
        self._session.lost.wait(seconds)


class AsyncWorkflowContext(_Context):
    """The first argument of an ``async`` workflow function: a `WorkflowContext` to be awaited.

    It belongs to the task that runs the function.
    """

    def __init__(self, session: RunSession, *, local: bool) -> None:
        super().__init__(session)
        self._local = local

    @staticmethod
    def _here() -> int:
        return anyio.get_current_task().id

    async def step(
        self,
        func: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """See `WorkflowContext.step`; plain functions are called in a worker thread."""
        self._guard("ctx.step")
        return await self._step(step_call(func, args, kwargs, key=key, retry=retry))

    async def ask(
        self,
        prompt: str,
        *,
        schema: Any = None,
        data: Any = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> Any:
        """See `WorkflowContext.ask`."""
        self._guard("ctx.ask")
        return self._answer(prompt, schema=schema, data=data, timeout=timeout, name=name)

    async def emit(self, kind: str, data: Any = None, *, coalesce: bool = False) -> None:
        """See `WorkflowContext.emit`."""
        self._guard_emit()
        if self._session.emit(kind, data, coalesce=coalesce, at_once=self._local):
            await self._off(self._session.flush)

    async def now(self) -> datetime:
        """See `WorkflowContext.now`."""
        self._guard("ctx.now")
        return datetime.fromtimestamp(
            await self._step(step_call(_now, (), {}, key=None, retry=None), NOW), UTC
        )

    async def random(self) -> float:
        """See `WorkflowContext.random`."""
        self._guard("ctx.random")
        return float(await self._step(step_call(_random, (), {}, key=None, retry=None), RANDOM))

    async def _step(self, call: StepCall, name: str | None = None) -> Any:
        name = name or call.name
        entry = self._session.recall(Request(kind=EntryKind.STEP, name=name))
        return await self._perform(call, name) if entry is None else self._replayed(entry)

    async def _perform(self, call: StepCall, name: str) -> Any:
        session, attempt = self._session, 0
        while True:
            attempt += 1
            session.check("ctx.step")
            if session.doubtful:
                await self._off(session.confirm)
            try:
                info = StepInfo(
                    run_id=self.run_id,
                    index=session.index,
                    name=name,
                    key=self._key(call),
                    attempt=attempt,
                    emit=self._emit_from_step,
                )
                with session.in_step(name), telling(info):
                    value = await self._unless_lost(_called, call, info.key)
                return await self._off(session.record_value, name, value)
            except Exception as error:
                session.check("ctx.step")
                delay = retry_delay(call.retry, error, attempt)
                if delay is None:
                    record = await self._off(session.record_error, name, error)
                    raise rebuilt_error(record) from error
            await self._pause(delay)

    async def _pause(self, seconds: float) -> None:
        await self._unless_lost(anyio.sleep, seconds)

    async def _unless_lost(self, func: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Await ``func(*args)``, and cancel it once the run is stopped or somebody else's."""
        notify = current_notifier()
        with anyio.CancelScope() as scope, self._session.telling(lambda: notify(scope.cancel)):
            return await func(*args)
        self._session.check("ctx.step")
        raise AssertionError  # only a run that is lost is cancelled here

    def _emit_from_step(self, kind: str, data: Any = None, *, coalesce: bool = False) -> None:
        self._guard_emit()
        self._session.emit(kind, data, coalesce=coalesce, at_once=self._local)

    async def _off(self, call: Callable[..., Any], *args: Any) -> Any:
        if self._local:
            return call(*args)

        # Left by a cancellation only once it is known what was written.
        return await to_thread.run_sync(partial(call, *args))


async def _called(call: StepCall, key: str) -> Any:
    bound = call.bound(key)
    value = await bound() if call.is_async else await to_thread.run_sync(bound)
    return await value if isawaitable(value) else value


async def _now() -> float:
    return time()


async def _random() -> float:
    return random.random()  # noqa: S311 - chance, no secret


def _dispose(value: Awaitable[Any]) -> None:
    if iscoroutine(value):
        value.close()  # or Python warns that it was never awaited
