"""Workflow runs in an event loop of the driver's own: executed, swept and kept in this process."""

from __future__ import annotations

import logging
from contextlib import ExitStack, asynccontextmanager
from contextvars import copy_context
from datetime import timedelta
from inspect import isawaitable
from time import time
from typing import TYPE_CHECKING

import anyio

from pytest_taskservice.drivers.workflow_client import ClientControl
from pytest_taskservice.drivers.workflow_memory import ToldStore, keys_in
from pytest_taskservice.drivers.workflow_story import StoryWorkflows, settings_of, told
from pytest_taskservice.drivers.workflow_sweeps import Sweeps
from pytest_taskservice.drivers.workflow_upkeep import TimedFlusher, TimedKeeper
from pytest_taskservice.history import Event
from taskservice.backends.loops import current_notifier
from taskservice.errors import TaskServiceError
from taskservice.service import TaskService
from taskservice.settings import load_settings
from taskservice.workflow.client import WorkflowClient
from taskservice.workflow.runner import WorkflowRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.from_thread import BlockingPortal

    from pytest_taskservice.drivers.base import Stage
    from pytest_taskservice.drivers.workflow_upkeep import Later
    from taskservice.backends.base import TaskBackend
    from taskservice.workflow.model import WorkflowEvent, WorkflowRun

__all__ = ["open_in_loop"]

logger = logging.getLogger(__name__)

_NEVER = timedelta(days=36_500)


def open_in_loop(
    portal: BlockingPortal,
    backend: TaskBackend,
    stage: Stage | None,
    *,
    tell: Callable[[Event], object],
    held: ExitStack,
) -> ClientControl:
    """Execute workflow runs in the portal's loop, on a ``backend`` of their own, until ``held`` is left."""
    workflows = StoryWorkflows(stage, is_async=True)

    def heard(run: WorkflowRun, event: WorkflowEvent) -> None:
        for kind, detail in told(event):
            tell(Event(at=event.at, kind=kind, run=run.id, task=workflows.label(run), detail=detail))

    store = ToldStore(heard)
    held.callback(store.close)
    # Its engine would wake up every second of a day in which nobody answers.
    settings = load_settings(
        workflow_store="memory", workflow_sweep_interval=_NEVER, **settings_of(workflows.limits)
    )
    later = held.enter_context(portal.wrap_async_context_manager(_timer()))
    service = held.enter_context(portal.wrap_async_context_manager(TaskService(backend)))
    client = WorkflowClient(service, settings=settings, store=store, registry=workflows.registry)
    held.enter_context(portal.wrap_async_context_manager(client))
    runtime = client.engine.runtime
    runtime.runner = WorkflowRunner(
        store,
        workflows.registry,
        payload_limit=runtime.payload_limit,
        clock=time,
        keeper=TimedKeeper(later),
        flusher=TimedFlusher(later),
    )
    sweeps = Sweeps(store.next_due, now=time, later=later, sweep=lambda: _sweep(client, sweeps))
    store.changed = sweeps.plan
    return ClientControl(
        portal, client, workflows, started=lambda _: None, keys=lambda run_id: keys_in(store, run_id)
    )


async def _sweep(client: WorkflowClient, sweeps: Sweeps) -> None:
    try:
        await client.engine.sweep()
    except TaskServiceError as error:
        logger.warning("workflow runs not swept: %s", error)
    sweeps.plan()


@asynccontextmanager
async def _timer() -> AsyncIterator[Later]:
    """Yield what has something done later in this loop, by whatever thread it is asked."""
    # A thread's own context knows of no loop.
    notify, inside = current_notifier(), copy_context()
    async with anyio.create_task_group() as group:

        def later(seconds: float, action: Callable[[], object]) -> Callable[[], object]:
            made = _Appointment(seconds, action)
            notify(lambda: inside.copy().run(group.start_soon, made.wait))
            return lambda: notify(made.cancel)

        yield later
        group.cancel_scope.cancel()


class _Appointment:
    """Something to be done in this loop, which alone makes and cancels its scope."""

    def __init__(self, seconds: float, action: Callable[[], object]) -> None:
        self._seconds = seconds
        self._action = action
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False

    async def wait(self) -> None:
        with anyio.CancelScope() as self._scope:
            if self._cancelled:
                return
            await anyio.sleep(self._seconds)
            found = self._action()
            if isawaitable(found):
                await found

    def cancel(self) -> None:
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()
