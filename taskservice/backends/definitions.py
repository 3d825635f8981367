"""Task definitions as Celery tasks: registered by name, retried by the same arithmetic."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery import Task, signals
from celery.exceptions import Ignore

from taskservice.backends.attempts import limits_of, retry_delay
from taskservice.backends.interruptions import InterruptedRunError, call_interruptibly
from taskservice.backends.limits import NO_LIMITS, call_and_abandon, call_limited, refuse_soft_limit
from taskservice.errors import SoftTimeLimitError
from taskservice.payloads import PAYLOAD_LIMIT, wire_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from celery import Celery

    from taskservice.tasks import TaskDefinition

    CeleryTask = Task[..., Any]
else:
    CeleryTask = Task  # before 5.7 it takes no parameters while it runs

__all__ = ["QueuedTask", "register_definitions"]


KILL_MARGIN: Final = 5.0
"""Seconds an ``async`` function has to leave at its time limit before its process is killed."""


def register_definitions(
    app: Celery, registry: Iterable[TaskDefinition[..., Any]], *, payload_limit: int = PAYLOAD_LIMIT
) -> None:
    """Make every definition that ``app`` does not know yet one of its tasks.

    An ``async`` function runs in an event loop of its own, on asyncio, in the worker's process. A result
    may have ``payload_limit`` bytes.
    """
    for definition in registry:
        if definition.name not in app.tasks:
            _register(app, definition, payload_limit)


def _register(app: Celery, definition: TaskDefinition[..., Any], payload_limit: int) -> None:
    def run(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = partial(definition.func, *args, **kwargs)
        try:
            value = _call(definition, self.request.id or "", call)
            return wire_value(value, "result", limit=payload_limit)
        except InterruptedRunError as interrupted:
            _mark_cancelled(self)
            raise Ignore from interrupted
        except Exception as error:
            delay = retry_delay(definition.retry, error, self.request.retries + 1)
            if delay is None:
                raise
            raise self.retry(exc=error, countdown=delay) from error

    register: Callable[[Callable[..., Any]], object] = app.task(
        name=definition.name,
        bind=True,
        base=QueuedTask,
        definition=definition,
        definition_queue=definition.queue,
        definition_priority=definition.priority,
        definition_is_async=definition.is_async,
        **_celery_options(definition),
        max_retries=None,  # the policy alone decides when to give up
        shared=False,  # or every other app of this process would get it as well
    )
    register(run)


class QueuedTask(CeleryTask):
    """A task that knows its queue and priority: Celery 6 drops the attributes it had for this."""

    abstract = True
    definition: TaskDefinition[..., Any] | None = None
    definition_queue: str | None = None
    definition_priority: int | None = None
    definition_is_async = False

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Publish a run, to the definition's queue unless told otherwise."""
        # A retry goes back to where the run came from.
        if self.definition_queue is not None and not options.keys() & _DESTINATIONS:
            options["queue"] = self.definition_queue
        if self.definition_priority is not None and options.get("priority") is None:
            options["priority"] = self.definition_priority
        return super().apply_async(*args, **options)


_DESTINATIONS: Final = frozenset({"queue", "exchange", "routing_key"})


def _celery_options(definition: TaskDefinition[..., Any]) -> dict[str, Any]:
    found = {
        "expires": definition.expires,
        "soft_time_limit": definition.soft_time_limit,
        "time_limit": definition.time_limit,
        "acks_late": definition.acks_late,
    }
    if definition.is_async:
        # A signal would hit the event loop and not the function; see backends.limits.
        found["soft_time_limit"] = None
        if definition.time_limit is not None:
            found["time_limit"] = definition.time_limit + KILL_MARGIN
    # Celery takes None for a value of its own; the app's defaults should decide.
    return {name: value for name, value in found.items() if value is not None}


def _mark_cancelled(task: Task[..., Any]) -> None:
    # What a worker does for a run whose process it has ended; only nobody was ended here.
    request: Any = task.request
    task.backend.mark_as_revoked(
        request.id, "cancelled", request=request, store_result=not task.ignore_result
    )
    signals.task_revoked.send(sender=task, request=request, terminated=True, signum=None, expired=False)


def _call(definition: TaskDefinition[..., Any], run_id: str, call: Callable[[], Any]) -> Any:
    limits = limits_of(definition)
    if definition.is_async:
        return anyio.run(call_interruptibly, run_id, partial(call_limited, call, limits))
    if limits == NO_LIMITS:
        return call()
    if _in_pool_process():
        return _call_with_signal(call, limits.soft)
    if limits.soft is not None:
        refuse_soft_limit(definition.name, "this worker's pool")

    assert limits.hard is not None
    return call_and_abandon(call, limits.hard)


def _in_pool_process() -> bool:
    # billiard's handler is there only in the processes of a prefork pool, which it can kill as well.
    if SIG_SOFT_TIMEOUT is None or threading.current_thread() is not threading.main_thread():
        return False

    return signal.getsignal(SIG_SOFT_TIMEOUT) is soft_timeout_sighandler


def _call_with_signal(call: Callable[[], Any], seconds: float | None) -> Any:
    def interrupt(_: int, __: FrameType | None) -> NoReturn:
        raise SoftTimeLimitError(seconds)

    before = signal.signal(SIG_SOFT_TIMEOUT, interrupt)
    try:
        return call()
    finally:
        signal.signal(SIG_SOFT_TIMEOUT, before)
