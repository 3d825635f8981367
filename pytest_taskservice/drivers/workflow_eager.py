"""Workflow runs in Celery's eager mode: executed inside the call that starts or answers them, never swept."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from pytest_taskservice.drivers.workflow_direct import DirectControl
from pytest_taskservice.drivers.workflow_memory import ToldStore
from pytest_taskservice.drivers.workflow_story import StoryWorkflows, told
from pytest_taskservice.drivers.workflow_tasks import known_tasks, send
from pytest_taskservice.history import Event
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow.runtime import WorkflowRuntime, lend_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager, ExitStack

    from celery import Celery

    from pytest_taskservice.drivers.base import Stage
    from taskservice.workflow.model import WorkflowEvent, WorkflowRun

__all__ = ["cannot_play", "open_eager"]

_DEADLINES = ("busy_after", "input_timeout", "stale_after", "data_ttl")


def cannot_play(stage: Stage | None) -> str | None:
    """Return why the workflows of ``stage`` cannot be shown by eager mode; ``None`` if they can."""
    if stage is None:
        return None

    wanted = [name for name in _DEADLINES if getattr(stage.config, name, None) is not None]
    for name, workflow in stage.workflows.items():
        if any(step.kind == "ask" and step.seconds for step in workflow.steps):
            wanted.append(f"the timeout of a question in {name!r}")
    if not wanted:
        return None
    return f"nothing happens later in eager mode, so no run is ever overdue: {', '.join(wanted)}"


def open_eager(
    app: Celery,
    stage: Stage | None,
    *,
    tell: Callable[[Event], object],
    contained: Callable[[], AbstractContextManager[None]],
    held: ExitStack,
) -> DirectControl:
    """Have the eager ``app`` execute workflow runs, each ``contained``, until ``held`` is left."""
    workflows = StoryWorkflows(stage)

    def heard(run: WorkflowRun, event: WorkflowEvent) -> None:
        for kind, detail in told(event):
            tell(Event(at=event.at, kind=kind, run=run.id, task=workflows.label(run), detail=detail))

    store = ToldStore(heard)
    held.callback(store.close)
    runtime = WorkflowRuntime(store, registry=workflows.registry, clock=time)
    held.callback(runtime.close)
    held.enter_context(known_tasks(app, payload_limit=PAYLOAD_LIMIT))
    held.enter_context(lend_runtime(app, runtime))

    def ask(run: WorkflowRun) -> None:
        with contained():
            send(app, run)

    # Messages of eager mode never wait, so none expires: both are the same.
    return DirectControl(workflows, runtime, send=ask, send_again=ask)
