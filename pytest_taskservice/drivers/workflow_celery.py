"""Workflow runs on real workers: asked for, and followed, from an event loop in the test process."""

from __future__ import annotations

import sys
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.from_thread import start_blocking_portal

from pytest_taskservice.drivers.worker_spec import ModuleSource
from pytest_taskservice.drivers.workflow_client import ClientControl
from pytest_taskservice.drivers.workflow_story import StoryWorkflows, find_workflow, settings_of, told
from pytest_taskservice.drivers.workflow_tasks import known_tasks
from pytest_taskservice.drivers.workflow_worker import place_of
from pytest_taskservice.history import Event
from taskservice.errors import BackendUnavailableError, TaskServiceError
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.service import TaskService
from taskservice.settings import load_settings
from taskservice.workflow.client import WorkflowClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from celery import Celery

    from pytest_taskservice.drivers.base import Stage
    from taskservice.backends.base import TaskBackend
    from taskservice.workflow.model import WorkflowRun

__all__ = ["called_modules", "open_on_workers"]

_AGAIN = 0.2
"""Seconds after which a Redis that is away is asked again."""


def called_modules(stage: Stage) -> tuple[ModuleSource, ...]:
    """Return the modules of the app's own workflows that ``stage`` names: a worker has to import them."""
    calls = [each.call for each in stage.workflows.values() if each.call]
    names = dict.fromkeys(find_workflow(place).func.__module__ for place in calls)
    return tuple(ModuleSource(name=name, file=getattr(sys.modules[name], "__file__", None)) for name in names)


def open_on_workers(
    app: Celery,
    backend: TaskBackend,
    stage: Stage | None,
    *,
    tell: Callable[[Event], object],
    held: ExitStack,
) -> ClientControl:
    """Have workers of ``app``, told as a test's, execute runs, and tell all that clients see of them.

    ``tell`` is called from the loop's thread, until ``held`` is left.
    """
    workflows = StoryWorkflows(stage)
    settings = load_settings(workflow_store="redis", **place_of(app), **settings_of(workflows.limits))
    held.enter_context(known_tasks(app, payload_limit=PAYLOAD_LIMIT))
    portal = held.enter_context(start_blocking_portal())
    service = held.enter_context(portal.wrap_async_context_manager(TaskService(backend)))
    client = WorkflowClient(service, settings=settings, registry=workflows.registry)
    held.enter_context(portal.wrap_async_context_manager(client))
    follow = held.enter_context(portal.wrap_async_context_manager(_followers(client, workflows, tell)))
    store: Any = client.engine.store
    return ClientControl(portal, client, workflows, started=follow, keys=store.count_keys)


@asynccontextmanager
async def _followers(
    client: WorkflowClient, workflows: StoryWorkflows, tell: Callable[[Event], object]
) -> AsyncIterator[Callable[[WorkflowRun], object]]:
    """Yield what has a run followed from its first event on, as a client would."""

    async def follow(run: WorkflowRun) -> None:
        events, label = client.events(run.id), workflows.label(run)
        while True:
            try:
                event = await events.next()
            except BackendUnavailableError:
                await anyio.sleep(_AGAIN)
                continue
            except TaskServiceError:
                return  # its data is gone before it was told so, or the test is over
            if event is None:
                return
            for kind, detail in told(event):
                tell(Event(at=event.at, kind=kind, run=run.id, task=label, detail=detail))

    async with anyio.create_task_group() as group:
        yield lambda run: group.start_soon(follow, run)
        group.cancel_scope.cancel()
