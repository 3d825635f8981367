"""A canvas in an eager app: its runs one after another, in threads, each by Celery's own way."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from taskservice.backends.canvas.local import FinishedRuns, launch_plan
from taskservice.backends.canvas.progress import Progress
from taskservice.backends.canvas.remote import map_arguments
from taskservice.backends.handles import EagerHandle
from taskservice.backends.publishing import publish
from taskservice.backends.remote import RemoteOutcome
from taskservice.errors import RunExpiredError
from taskservice.runs import TaskState

if TYPE_CHECKING:
    from celery import Celery, Task

    from taskservice.backends.canvas.plan import Plan, Run
    from taskservice.backends.canvas.remote import Tasks
    from taskservice.backends.eager import EagerRuns

__all__ = ["run_eagerly"]


async def run_eagerly(app: Celery, plan: Plan, tasks: Tasks, runs: EagerRuns) -> FinishedRuns:
    """Run all of ``plan`` and return its runs; what comes of each is kept in ``runs``."""
    progress = Progress(plan)
    handles: dict[str, EagerHandle] = {}
    progress.begin()
    while progress.due or progress.skipped:
        if progress.skipped:
            skipped, outcome = progress.skipped.popleft()
            runs.keep(skipped.id, outcome)
            handles[skipped.id] = EagerHandle(skipped.id, runs)
            continue

        run, previous = progress.due.popleft()
        await to_thread.run_sync(_run, app, runs, tasks[run.id], run, previous)
        # At once: only so many outcomes are kept, and a canvas may have more.
        handles[run.id] = EagerHandle(run.id, runs)
        progress.note(run.id, handles[run.id].seen())
    return FinishedRuns([handles[run.id] for run in plan.runs])


def _run(app: Celery, runs: EagerRuns, task: Task[..., Any], run: Run, previous: Any) -> None:
    plan = launch_plan(run)
    if plan is None:
        runs.keep(run.id, RemoteOutcome(state=TaskState.REVOKED, error=RunExpiredError(run.id)))
        return

    args, kwargs = run.arguments(previous)
    if run.items is not None:
        name, kwargs = map_arguments(task, run)
        task = app.tasks[name]
    runs.run(run.id, partial(publish, app, task, run.id, args, kwargs, plan=plan))
