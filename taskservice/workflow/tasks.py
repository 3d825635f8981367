"""The tasks that move workflow runs on; each carries nothing but a run's id.

A message that comes twice, late or to a run that is over does nothing: what may be done is decided by the
store, not by who was asked.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from taskservice.errors import BackendUnavailableError, WorkflowExpiredError, WorkflowOverError
from taskservice.tasks import RetryPolicy, TaskDefinition, task
from taskservice.workflow.model import WorkflowStatus
from taskservice.workflow.runtime import worker_runtime
from taskservice.workflow.store.base import apply_signal
from taskservice.workflow.transitions import MESSAGES, Stop

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.workflow.model import WorkflowRun
    from taskservice.workflow.runtime import WorkflowRuntime

__all__ = [
    "WORKFLOW_TASKS",
    "again_in",
    "continue_workflow",
    "execute_workflow",
    "message_for",
    "send_again",
    "stop_run",
    "stop_workflow",
]

UNTIL_REDIS_IS_BACK: Final = RetryPolicy(
    max_attempts=8,
    base=timedelta(milliseconds=200),
    cap=timedelta(seconds=5),
    retry_for=(BackendUnavailableError,),
)


@task(name="taskservice.execute_workflow", acks_late=True, retry=UNTIL_REDIS_IS_BACK)
def execute_workflow(run_id: str) -> str:
    """Take a run up; return its status then, or the code of what stood against it."""
    return _runtime().runner.execute(run_id)


@task(name="taskservice.continue_workflow", acks_late=True, retry=UNTIL_REDIS_IS_BACK)
def continue_workflow(run_id: str) -> str:
    """Take a run up that has its answer; ``workflow_expired`` if its data is gone."""
    return _runtime().runner.execute(run_id)


@task(name="taskservice.stop_workflow", acks_late=True, retry=UNTIL_REDIS_IS_BACK)
def stop_workflow(run_id: str) -> str:
    """End a run, whatever it does; ``workflow_expired`` if its data is gone."""
    return stop_run(_runtime(), run_id)


WORKFLOW_TASKS: Final = (execute_workflow, continue_workflow, stop_workflow)


def stop_run(runtime: WorkflowRuntime, run_id: str) -> str:
    """End a run at once; return its status then, or the code of what stood against it."""
    try:
        return apply_signal(runtime.store, run_id, Stop(), now=runtime.clock()).run.status.value
    except (WorkflowExpiredError, WorkflowOverError) as error:
        return error.code


def message_for(run: WorkflowRun) -> TaskDefinition[[str], str]:
    """Return the task that moves ``run`` on as it stands now."""
    return continue_workflow if run.status is WorkflowStatus.INPUT_OVER else execute_workflow


def send_again(app: Celery, run: WorkflowRun) -> None:
    """Ask the workers of ``app`` to take up a run whose worker, or message, is gone."""
    options: dict[str, Any] = {"queue": run.queue} if run.queue else {}
    app.tasks[message_for(run).name].apply_async((run.id,), expires=again_in(run), **options)


def again_in(run: WorkflowRun) -> float:
    """Return for how many seconds the message for an orphan counts: until the next one is sent.

    Where no worker is, messages must not pile up.
    """
    limits = run.deadlines
    return max(1.0, limits.lease if run.status is WorkflowStatus.RUNNING else limits.busy / MESSAGES)


def _runtime() -> WorkflowRuntime:
    from celery import current_task

    return worker_runtime(current_task.app)
