"""What the drivers of a Celery app share: finding tasks, sending calls, reading where a run stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.base import Capability, Outcome, TaskCall
from pytest_taskservice.drivers.called import at_path
from pytest_taskservice.errors import UnknownNameError
from pytest_taskservice.history import Event, EventKind
from taskservice.texts import text_of

if TYPE_CHECKING:
    from celery import Celery

__all__ = [
    "event_from",
    "find_task",
    "guarded",
    "now",
    "outcome_from",
    "outcome_of",
    "required",
    "send",
    "sending_options",
    "without_workers",
]


def find_task(app: Celery, name: str) -> Any:
    """Return the task of ``app`` registered as ``name``, or found at that dotted path."""
    task: Any = app.tasks.get(name)
    if task is not None:
        return task

    # Only what the app has registered is ever called, whatever else stands at that path.
    registered = getattr(at_path(name), "name", None)
    if isinstance(registered, str) and registered in app.tasks:
        return app.tasks[registered]
    known = tuple(sorted(task for task in app.tasks if not task.startswith("celery.")))
    raise UnknownNameError("task", name, known)


def send(app: Celery, call: TaskCall, *, task_id: str | None = None) -> Any:
    """Submit ``call`` through the app and return Celery's result object."""
    given = sending_options(call) if task_id is None else {"task_id": task_id, **sending_options(call)}
    return find_task(app, call.task).apply_async(call.args, dict(call.kwargs), **given)


def sending_options(call: TaskCall) -> dict[str, Any]:
    """Return what ``apply_async`` and signatures take for ``call``, only what it says."""
    options = {
        "countdown": call.countdown,
        "expires": call.expires,
        "queue": call.queue,
        "priority": call.priority,
        "soft_time_limit": call.soft_time_limit,
        "time_limit": call.time_limit,
        "shadow": call.label,
    }
    return {name: value for name, value in options.items() if value is not None}


def required(call: TaskCall) -> list[Capability]:
    """Return what a world must be able to show for ``call`` to mean what it says."""
    wanted = {
        Capability.ETA: call.countdown,
        Capability.EXPIRES: call.expires,
        Capability.TIME_LIMITS: call.soft_time_limit or call.time_limit,
    }
    return [capability for capability, value in wanted.items() if value]


@contextmanager
def guarded(
    app: Celery,
    *,
    on_apply: Callable[[Any, Mapping[str, Any]], None],
    on_send: Callable[[], None],
) -> Iterator[None]:
    """Ask ``on_apply`` before each ``apply_async`` of the app's tasks, ``on_send`` before ``send_task``.

    ``on_apply`` gets the task and the call's options; either refuses by raising.
    """
    from celery.app.task import Task

    send_task = app.send_task

    def ask(task: Any, *_: Any, **options: Any) -> None:
        if task.app is app:
            on_apply(task, options)

    @wraps(send_task)
    def guarded_send(*args: Any, **options: Any) -> Any:
        on_send()
        return send_task(*args, **options)

    app.__dict__["send_task"] = guarded_send
    try:
        with _asked_before(Task, "apply_async", ask):
            yield
    finally:
        app.__dict__.pop("send_task", None)


@contextmanager
def without_workers(app: Celery, *, on_control: Callable[[str], None]) -> Iterator[None]:
    """Ask ``on_control`` before each remote command of ``app``, a revoke of an eager result included."""
    from celery.result import EagerResult

    control: Any = app.control
    broadcast = control.broadcast

    @wraps(broadcast)
    def guarded_broadcast(command: str, *args: Any, **options: Any) -> Any:
        on_control(command)
        return broadcast(command, *args, **options)

    control.broadcast = guarded_broadcast
    try:
        with _asked_before(EagerResult, "revoke", lambda *_, **__: on_control("revoke")):
            yield
    finally:
        del control.broadcast


@contextmanager
def _asked_before(owner: Any, name: str, ask: Callable[..., None]) -> Iterator[None]:
    """Call ``ask`` before each call of the method ``name`` of a class, with the same arguments.

    Whoever wraps the method meanwhile, as sentry_sdk does once in a process, is left in place at the end.
    """
    original = getattr(owner, name)
    asking = True

    @wraps(original)
    def method(*args: Any, **options: Any) -> Any:
        if asking:
            ask(*args, **options)
        return original(*args, **options)

    setattr(owner, name, method)
    try:
        yield
    finally:
        asking = False
        if getattr(owner, name) is method:
            setattr(owner, name, original)


def outcome_of(app: Celery, run_id: str) -> Outcome:
    """Return where a run stands, as the app's result backend has it."""
    return _outcome(app.backend.get_task_meta(run_id))


def outcome_from(app: Celery, stored: Any) -> Outcome:
    """Return where a run stands by what the app's result backend has stored of it, if anything."""
    if not stored:
        return Outcome(status="PENDING")
    backend: Any = app.backend
    return _outcome(backend.meta_from_decoded(backend.decode(stored)))


def _outcome(meta: dict[str, Any]) -> Outcome:
    result = meta.get("result")
    attempts = int(meta.get("retries") or 0) + 1
    if isinstance(result, BaseException):
        return Outcome(
            status=meta["status"],
            error=type(result).__name__,
            message=text_of(result),
            attempts=attempts,
        )
    return Outcome(status=meta["status"], result=result, attempts=attempts)


def event_from(record: dict[str, Any]) -> Event:
    """Rebuild an event from the JSON an agent reports."""
    return Event(**{**record, "kind": EventKind(record["kind"])})


def now() -> float:
    """Return the wall clock, in seconds since the epoch."""
    return datetime.now(tz=UTC).timestamp()
