"""Packed messages: many calls of one task in one message, each still a run of its own.

The worker hands each call to Celery's own tracer, under its own id and request, so that results,
errors, hooks, signals and retries are those of a message of its own. What is the message's and not a
call's: where it goes, when it is acknowledged, when it expires.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from celery import states
from celery.app.trace import trace_task
from celery.exceptions import NotRegistered, Reject

from taskservice.backends.definitions import QueuedTask
from taskservice.backends.packed_results import ResultBuffer, send_off
from taskservice.backends.seams import execution_options
from taskservice.backends.storing import is_plain_redis
from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery, Task
    from celery.app.task import Context

__all__ = [
    "PACKED",
    "pack_arguments",
    "packed_options",
    "packed_task",
    "refuse_unpackable",
    "register_packed",
    "unfinished_calls",
]

logger = logging.getLogger(__name__)

PACKED: Final = "taskservice.packed"
HOLD_SECONDS: Final = 0.05
"""How long a finished call's result may wait for company, and then for the call that is running."""

# When a message is acknowledged is a property of a task, so there is a task for each way.
_WAYS: Final = {
    PACKED: {"acks_late": False, "reject_on_worker_lost": False},
    f"{PACKED}.late": {"acks_late": True, "reject_on_worker_lost": False},
    f"{PACKED}.late.requeued": {"acks_late": True, "reject_on_worker_lost": True},
}
_registered: WeakSet[Celery] = WeakSet()


def register_packed(app: Celery) -> None:
    """Have workers of ``app`` know packed messages; a second call does nothing."""
    if app in _registered:
        return

    _registered.add(app)
    for name, acknowledged in _WAYS.items():
        register = app.task(  # type: ignore[call-overload] # its stubs know no None and no mapping
            name=name,
            bind=True,
            shared=False,
            ignore_result=True,
            # If the whole message is lost, its calls' handles learn of it from here.
            store_errors_even_if_ignored=True,
            track_started=False,
            rate_limit=None,
            acks_on_failure_or_timeout=True,
            **acknowledged,
        )
        register(_run)


def packed_task(app: Celery, task: Task[..., Any]) -> Task[..., Any]:
    """Return the task whose messages are acknowledged as those of ``task`` are."""
    register_packed(app)
    name = PACKED
    if task.acks_late:
        name += ".late.requeued" if task.reject_on_worker_lost else ".late"
    found: Task[..., Any] = app.tasks[name]
    return found


def refuse_unpackable(app: Celery, task: Task[..., Any]) -> None:
    """Raise `ConfigurationError` for a task with a limit that Celery keeps per message."""
    limits = {
        "time_limit": task.time_limit or app.conf.task_time_limit,
        "soft_time_limit": task.soft_time_limit or app.conf.task_soft_time_limit,
        "rate_limit": task.rate_limit,
    }
    for name, value in limits.items():
        if value:
            raise ConfigurationError(
                f"launch {task.name!r} with per_message=1: its {name} of {value!r} is kept "
                "per message, and would be shared by all the calls in one"
            )


def packed_options(app: Celery, task: Task[..., Any]) -> dict[str, Any]:
    """Return the options, the destination first of all, that a message of ``task`` would have."""
    given = execution_options(task)
    given.pop("ignore_result", None)
    if isinstance(task, QueuedTask) and task.definition_queue is not None:
        given["queue"] = task.definition_queue
    router: Any = app.amqp.router
    options: dict[str, Any] = router.route(given, task.name, (), {}, task)
    return options


def pack_arguments(
    task: Task[..., Any], calls: Sequence[tuple[str, Sequence[Any], Mapping[str, Any]]]
) -> tuple[str, list[list[Any]]]:
    """Return the arguments of a packed message: the task's name, and id, args and kwargs of each call."""
    return task.name, [[run_id, list(args), dict(kwargs)] for run_id, args, kwargs in calls]


def unfinished_calls(app: Celery, calls: list[list[Any]]) -> list[list[Any]]:
    """Return those of a packed message's calls that have neither an end nor a retry; it blocks."""
    # Delivered again, after its first worker was lost: what that one finished is not done twice.
    return [call for call in calls if app.backend.get_task_meta(call[0])["status"] not in _DONE]


def _run(self: Task[..., Any], name: str, calls: list[list[Any]]) -> None:
    app = self.app
    request = self.request
    pack_id = str(request.id)
    task = app.tasks.get(name)
    left = unfinished_calls(app, calls) if (request.delivery_info or {}).get("redelivered") else calls
    if task is None:
        for run_id, args, kwargs in left:
            context = type(request)(_request_of(request, name, run_id, args, kwargs))
            app.backend.mark_as_failure(run_id, NotRegistered(name), request=context)
        send_off(app.backend, pack_id, [call[0] for call in left])
        return

    backend: Any = task.backend
    if not is_plain_redis(backend):
        send_off(backend, pack_id, [call[0] for call in left])
        for call in left:
            _trace(app, task, request, call)
        return

    with ResultBuffer(backend, pack_id) as buffer:
        flushed = monotonic()
        for call in left:
            _trace(app, task, request, call)
            if monotonic() - flushed > HOLD_SECONDS:
                buffer.flush()
                flushed = monotonic()


def _trace(app: Celery, task: Task[..., Any], pack: Context, call: list[Any]) -> None:
    run_id, args, kwargs = call
    try:
        trace_task(task, run_id, args, kwargs, _request_of(pack, task.name, run_id, args, kwargs), app=app)
    except Reject:
        # From a hook. A message of its own would be rejected; this one is of others too.
        logger.warning("run %s asked to be rejected, which a packed one cannot be", run_id)


def _request_of(
    pack: Context, name: str, run_id: str, args: list[Any], kwargs: dict[str, Any]
) -> dict[str, Any]:
    launched_alone = pack.root_id in {None, pack.id}
    return {
        **_SHARED,
        "task": name,
        "id": run_id,
        "root_id": run_id if launched_alone else pack.root_id,
        "parent_id": pack.parent_id,
        "correlation_id": run_id,
        "args": args,
        "kwargs": kwargs,
        "expires": pack.expires,
        "timelimit": [None, None],
        "origin": pack.origin,
        "reply_to": pack.reply_to,
        "delivery_info": pack.delivery_info,
        "hostname": pack.hostname,
        "stamps": {},
        "properties": pack.properties,
    }


_SHARED: Final = {
    "lang": "py",
    "argsrepr": None,
    "kwargsrepr": None,
    "retries": 0,
    "eta": None,
    "is_eager": False,
    "callbacks": None,
    "errbacks": None,
    "chain": None,
    "chord": None,
    "group": None,
    "group_index": None,
    "shadow": None,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
}
_DONE: Final = states.READY_STATES | {states.RETRY}
