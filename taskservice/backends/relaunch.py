"""Sending a dead letter's run to a worker again, under its old id; it blocks."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.backends.base import BaseKeyValueStoreBackend, DisabledBackend

from taskservice.backends.calls import own_expires
from taskservice.backends.publishing import publish, quiet_results
from taskservice.submission import AT_ONCE, plan_launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from taskservice.deadletters import DeadLetter

__all__ = ["relaunch"]


def relaunch(app: Celery, letter: DeadLetter) -> None:
    """Send it; a task that ``app`` does not know goes by its name, for it came from a worker that does."""
    task = app.tasks.get(letter.task)
    with _without_result(app, letter.id):
        if task is not None:
            plan = plan_launch(AT_ONCE, expires=own_expires(task))
            plan = replace(plan, queue=letter.queue, priority=letter.priority)
            publish(app, task, letter.id, letter.args, letter.kwargs, plan=plan)
            return

        found = {"queue": letter.queue, "priority": letter.priority}
        options: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        with quiet_results(app):
            app.send_task(letter.task, letter.args, dict(letter.kwargs), task_id=letter.id, **options)


@contextmanager
def _without_result(app: Celery, run_id: str) -> Iterator[None]:
    """Take the old failure away, or whoever asks for the new end would be given it; put it back on error."""
    backend = app.backend
    if isinstance(backend, DisabledBackend):
        yield
        return
    if not isinstance(backend, BaseKeyValueStoreBackend):
        with suppress(NotImplementedError):  # a result backend that only hands results on
            backend.forget(run_id)
        yield
        return

    key = backend.get_key_for_task(run_id)
    stored = backend.get(key)
    backend.delete(key)
    try:
        yield
    except BaseException:
        if stored is not None:
            backend.set(key, stored)
        raise
