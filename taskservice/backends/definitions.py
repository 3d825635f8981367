"""Task definitions as Celery tasks: registered by name, retried by the same arithmetic."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from taskservice.backends.attempts import retry_delay
from taskservice.payloads import wire_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery, Task

    from taskservice.tasks import TaskDefinition

__all__ = ["register_definitions"]


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

    options: dict[str, Any] = {} if definition.queue is None else {"queue": definition.queue}
    # The policy alone decides when to give up.
    register: Any = app.task(name=definition.name, bind=True, max_retries=None, **options)
    register(run)


def _call(definition: TaskDefinition[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not definition.is_async:
        return definition.func(*args, **kwargs)

    return anyio.run(partial(definition.func, *args, **kwargs))
