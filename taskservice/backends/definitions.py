"""Task definitions as Celery tasks: registered by name, retried by the same arithmetic."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from celery import Task

from taskservice.backends.attempts import retry_delay
from taskservice.payloads import wire_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

    from taskservice.tasks import TaskDefinition

__all__ = ["QueuedTask", "register_definitions"]


def register_definitions(app: Celery, registry: Iterable[TaskDefinition[..., Any]]) -> None:
    """Make every definition that ``app`` does not know yet one of its tasks.

    An ``async`` function runs in an event loop of its own, on asyncio, in the worker's process.
    """
    for definition in registry:
        if definition.name not in app.tasks:
            _register(app, definition)


def _register(app: Celery, definition: TaskDefinition[..., Any]) -> None:
    def run(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return wire_value(_call(definition, args, kwargs), "result")
        except Exception as error:
            delay = retry_delay(definition.retry, error, self.request.retries + 1)
            if delay is None:
                raise
            raise self.retry(exc=error, countdown=delay) from error

    register = app.task(
        name=definition.name,
        bind=True,
        base=QueuedTask,
        definition_queue=definition.queue,
        max_retries=None,  # the policy alone decides when to give up
        shared=False,  # or every other app of this process would get it as well
    )
    register(run)


class QueuedTask(Task[..., Any]):
    """A task that knows its queue: Celery 6 drops the ``queue`` attribute that it had for this."""

    abstract = True
    definition_queue: str | None = None

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Publish a run, to the definition's queue unless told otherwise."""
        # A retry goes back to where the run came from.
        if self.definition_queue is not None and not options.keys() & _DESTINATIONS:
            options["queue"] = self.definition_queue
        return super().apply_async(*args, **options)


_DESTINATIONS: Final = frozenset({"queue", "exchange", "routing_key"})


def _call(definition: TaskDefinition[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not definition.is_async:
        return definition.func(*args, **kwargs)

    return anyio.run(partial(definition.func, *args, **kwargs))
