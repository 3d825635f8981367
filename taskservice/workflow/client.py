"""The client of workflow runs: start, watch, answer, stop, and get what they return."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio

from taskservice.errors import (
    ConfigurationError,
    QuestionError,
    ResultTimeoutError,
    ServiceClosedError,
    WorkflowExpiredError,
    WorkflowFailedError,
    WorkflowOverError,
)
from taskservice.service import TaskService
from taskservice.settings import load_settings
from taskservice.workflow.definitions import default_workflows
from taskservice.workflow.engine import WorkflowEngine
from taskservice.workflow.events import EventReaders
from taskservice.workflow.model import WorkflowStatus
from taskservice.workflow.store.base import load_run
from taskservice.workflow.values import rebuilt_error

if TYPE_CHECKING:
    from types import TracebackType

    from celery import Celery

    from taskservice.settings import Settings
    from taskservice.workflow.definitions import WorkflowDefinition, WorkflowRegistry
    from taskservice.workflow.events import WorkflowEvents
    from taskservice.workflow.model import Question, WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore

__all__ = ["WorkflowClient", "open_question"]


class WorkflowClient:
    """Starts workflow runs and takes part in them; open it with ``async with``, on asyncio or trio.

    It works by an open ``service``, whose settings it takes unless it is given others; `from_settings`
    opens a service of its own. One per process is enough for any number of runs and users.

    With an ``owner`` the runs it starts are that owner's, and nobody else's exist for it: they are answered
    by `WorkflowExpiredError`, as unknown ones are. `for_owner` returns such a view of an open client.
    """

    def __init__(
        self,
        service: TaskService,
        *,
        settings: Settings | None = None,
        store: WorkflowStore | None = None,
        registry: WorkflowRegistry = default_workflows,
        owner: str | None = None,
    ) -> None:
        engine = WorkflowEngine(
            service,
            store=store,
            registry=registry,
            settings=service.settings if settings is None else settings,
        )
        self._link = _Link(engine, opens=None)
        self._owner = owner

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        app: Celery | None = None,
        *,
        owner: str | None = None,
    ) -> Self:
        """Return a client that opens a service as `TaskService.from_settings` does, and closes it."""
        given = load_settings() if settings is None else settings
        service = TaskService.from_settings(given, app)
        client = cls(service, settings=given, owner=owner)
        client._link.opens = service
        return client

    async def __aenter__(self) -> Self:
        await self._link.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._link.close()

    @property
    def engine(self) -> WorkflowEngine:
        """What moves the runs on; `ServiceClosedError` outside ``async with``."""
        return self._link.engine

    @property
    def owner(self) -> str | None:
        """Whose runs this is for; ``None`` for everybody's."""
        return self._owner

    def for_owner(self, owner: str) -> Self:
        """Return this client for the runs of ``owner`` alone; it is open as long as this one is."""
        view = object.__new__(type(self))
        view._link = self._link
        view._owner = owner
        return view

    async def start(self, workflow: WorkflowDefinition | str, /, *args: Any, **kwargs: Any) -> str:
        """Start a run of ``workflow(ctx, *args, **kwargs)`` and return its id, which nobody can guess.

        A name is enough where the function itself is elsewhere. `PayloadError` for arguments that are
        not JSON, `TypeError` for those that the function does not take.
        """
        run = await self._link.engine.launch(workflow, args, kwargs, owner=self._owner or "")
        return run.id

    async def status(self, run_id: str) -> WorkflowRun:
        """Return the run as it is now; `WorkflowExpiredError` if it is unknown, gone or another's."""
        return await self._link.readers.ask(self._load, run_id)

    async def question(self, run_id: str) -> Question | None:
        """Return what the run waits for now, or ``None``."""
        return (await self.status(run_id)).question

    async def send_input(self, run_id: str, value: Any, question_id: str | None = None) -> WorkflowRun:
        """Answer the run's question and return the run; whoever comes first is taken, and nobody else.

        Without ``question_id`` it is the one that is open now: name it where a second click must not
        answer the next one. Any JSON is an answer, ``None`` and ``""`` too. One that does not fit the
        question's schema is taken here, and asked for again by a new question with a ``problem``.

        `QuestionError` if the question is not open or somebody was faster, `WorkflowOverError`,
        `WorkflowExpiredError`.
        """
        if question_id is None or self._owner is not None:
            run = await self.status(run_id)
            question_id = open_question(run) if question_id is None else question_id
        return await self._link.engine.answer(run_id, question_id, value)

    async def stop(self, run_id: str) -> WorkflowRun:
        """End the run at once, whatever it does, and return it; `WorkflowOverError` if it is over."""
        await self.status(run_id)
        return await self._link.engine.stop(run_id)

    async def result(self, run_id: str, timeout: float | None = None) -> Any:
        """Return what the run's function returned, once it is over.

        `WorkflowFailedError` if it failed, from what its function raised if that is known here;
        `ResultTimeoutError` after ``timeout`` seconds, and the run goes on.
        """
        run = await self.status(run_id)
        if not run.status.final:
            with anyio.move_on_after(timeout):
                async with aclosing(self.events(run_id, after=run.last_event)) as events:
                    async for _ in events:
                        pass
            run = await self.status(run_id)
        if not run.status.final:
            raise ResultTimeoutError(run.id, run.workflow, timeout or 0.0, run.status.value)
        return _result(run)

    def events(self, run_id: str, *, after: int = 0) -> WorkflowEvents:
        """Return an async iterator over the run's events that follow id ``after``; see `WorkflowEvents`.

        Hand in the id of the last event seen to go on after a break, without a gap or a repetition.
        """
        return self._link.readers.read(run_id, partial(self._load, run_id), after=after)

    def _load(self, run_id: str) -> WorkflowRun:
        runtime = self._link.engine.runtime
        run = load_run(runtime.store, run_id, now=runtime.clock())
        if self._owner is not None and run.owner != self._owner:
            raise WorkflowExpiredError(run_id)

        return run


class _Link:
    """What a client and its views share, open or not."""

    def __init__(self, engine: WorkflowEngine, *, opens: TaskService | None) -> None:
        self.opens = opens
        self._engine = engine
        self._readers: EventReaders | None = None
        self._stack = AsyncExitStack()

    @property
    def engine(self) -> WorkflowEngine:
        if self._readers is None:
            raise ServiceClosedError("workflow client")

        return self._engine

    @property
    def readers(self) -> EventReaders:
        if self._readers is None:
            raise ServiceClosedError("workflow client")

        return self._readers

    async def open(self) -> None:
        if self._readers is not None:
            raise ConfigurationError(
                "open a workflow client once; its for_owner() needs no `with` of its own"
            )

        async with AsyncExitStack() as stack:
            if self.opens is not None:
                await stack.enter_async_context(self.opens)
            await stack.enter_async_context(self._engine)
            self._readers = EventReaders(self._engine.store)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.close()
        await self._stack.aclose()


def open_question(run: WorkflowRun) -> str:
    """Return the id of what ``run`` asks; `WorkflowOverError`, `QuestionError` where nothing is asked."""
    if run.status.final:
        raise WorkflowOverError(run.id, run.status, _reason(run))
    if run.question is None:
        raise QuestionError(run.id, "", None)

    return run.question.id


def _result(run: WorkflowRun) -> Any:
    if run.status is WorkflowStatus.SUCCESS:
        return run.result

    cause = None if run.error is None else rebuilt_error(run.error)
    raise WorkflowFailedError(run.id, _reason(run), run.error) from cause


def _reason(run: WorkflowRun) -> str:
    return "" if run.reason is None else run.reason.value
