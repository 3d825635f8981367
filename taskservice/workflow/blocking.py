"""The workflow client for code without an event loop: the same client, behind one portal."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from anyio.from_thread import start_blocking_portal

from taskservice.errors import ServiceClosedError
from taskservice.selection import BackendSelector
from taskservice.service import TaskService
from taskservice.settings import load_settings
from taskservice.workflow.client import WorkflowClient
from taskservice.workflow.definitions import default_workflows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from anyio.from_thread import BlockingPortal
    from celery import Celery

    from taskservice.backends.base import TaskBackend
    from taskservice.blocking import LoopName
    from taskservice.settings import Settings
    from taskservice.workflow.definitions import WorkflowDefinition, WorkflowRegistry
    from taskservice.workflow.model import Question, WorkflowEvent, WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore

__all__ = ["BlockingWorkflowClient"]


class BlockingWorkflowClient:
    """A `WorkflowClient` for threads; open it with ``with``. Any number of threads may share it.

    It opens a service on ``backend``. ``loop`` is the event loop that runs behind it, ``asyncio`` or
    ``trio``, in a thread of its own.
    """

    def __init__(  # noqa: PLR0913 - by name
        self,
        backend: TaskBackend | BackendSelector,
        *,
        settings: Settings | None = None,
        store: WorkflowStore | None = None,
        registry: WorkflowRegistry = default_workflows,
        owner: str | None = None,
        loop: LoopName = "asyncio",
    ) -> None:
        service = TaskService(backend)
        self._client = WorkflowClient(service, settings=settings, store=store, registry=registry, owner=owner)
        self._opening = _Opening(service, self._client, loop)

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        app: Celery | None = None,
        *,
        owner: str | None = None,
        loop: LoopName = "asyncio",
    ) -> Self:
        """See `WorkflowClient.from_settings`."""
        given = load_settings() if settings is None else settings
        return cls(BackendSelector(settings=given, app=app), owner=owner, loop=loop)

    def __enter__(self) -> Self:
        self._opening.enter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opening.leave()

    @property
    def owner(self) -> str | None:
        """See `WorkflowClient.owner`."""
        return self._client.owner

    def for_owner(self, owner: str) -> Self:
        """See `WorkflowClient.for_owner`."""
        view = object.__new__(type(self))
        view._client = self._client.for_owner(owner)
        view._opening = self._opening
        return view

    def start(self, workflow: WorkflowDefinition | str, /, *args: Any, **kwargs: Any) -> str:
        """See `WorkflowClient.start`."""
        return self._portal.call(partial(self._client.start, workflow, *args, **kwargs))

    def status(self, run_id: str) -> WorkflowRun:
        """See `WorkflowClient.status`."""
        return self._portal.call(self._client.status, run_id)

    def question(self, run_id: str) -> Question | None:
        """See `WorkflowClient.question`."""
        return self._portal.call(self._client.question, run_id)

    def send_input(self, run_id: str, value: Any, question_id: str | None = None) -> WorkflowRun:
        """See `WorkflowClient.send_input`."""
        run: WorkflowRun = self._portal.call(self._client.send_input, run_id, value, question_id)
        return run

    def stop(self, run_id: str) -> WorkflowRun:
        """See `WorkflowClient.stop`."""
        return self._portal.call(self._client.stop, run_id)

    def result(self, run_id: str, timeout: float | None = None) -> Any:
        """See `WorkflowClient.result`."""
        return self._portal.call(self._client.result, run_id, timeout)

    def events(self, run_id: str, *, after: int = 0) -> Iterator[WorkflowEvent]:
        """Yield the run's events that follow id ``after``; see `WorkflowClient.events`."""
        portal = self._portal
        events = self._client.events(run_id, after=after)
        try:
            while (event := portal.call(events.next)) is not None:
                yield event
        finally:
            if self._opening.portal is portal:
                portal.call(events.aclose)

    @property
    def _portal(self) -> BlockingPortal:
        if self._opening.portal is None:
            raise ServiceClosedError("blocking workflow client")

        return self._opening.portal


class _Opening:
    """What a client and its views share, open or not."""

    def __init__(self, service: TaskService, client: WorkflowClient, loop: LoopName) -> None:
        self.portal: BlockingPortal | None = None
        self._service = service
        self._client = client
        self._loop = loop
        self._stack = ExitStack()

    def enter(self) -> None:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(self._loop))
            stack.enter_context(portal.wrap_async_context_manager(self._service))
            stack.enter_context(portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        self.portal = portal

    def leave(self) -> None:
        self.portal = None
        self._stack.close()
