"""The tasks that move workflow runs on, lent to an app that does not have them, and their messages."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from taskservice.backends.definitions import register_definitions
from taskservice.errors import BackendUnavailableError
from taskservice.workflow.tasks import WORKFLOW_TASKS, message_for, send_again

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from taskservice.workflow.model import WorkflowRun

__all__ = ["known_tasks", "send", "send_once_more"]


@contextmanager
def known_tasks(app: Celery, *, payload_limit: int) -> Iterator[None]:
    """Have ``app`` know the workflows' tasks in the block."""
    lent = [task.name for task in WORKFLOW_TASKS if task.name not in app.tasks]
    register_definitions(app, WORKFLOW_TASKS, payload_limit=payload_limit)
    try:
        yield
    finally:
        for name in lent:
            app.tasks.pop(name, None)


def send(app: Celery, run: WorkflowRun) -> None:
    """Ask for ``run`` to be taken up for the first time, or with its answer."""
    options: dict[str, Any] = {"queue": run.queue} if run.queue else {}
    with _reaching():
        app.tasks[message_for(run).name].apply_async((run.id,), **options)


def send_once_more(app: Celery, run: WorkflowRun) -> None:
    """Do as a sweeper does with a run that nobody has."""
    with _reaching():
        send_again(app, run)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (OperationalError, ConnectionError, RedisError) as error:
        raise BackendUnavailableError("celery", str(error)) from error
