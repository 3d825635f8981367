"""Attempts: how one call of a function is made in this process, and whether another one follows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from inspect import iscoroutinefunction
from random import random
from typing import TYPE_CHECKING, Any

from taskservice.backends.calls import function_name, is_celery_task
from taskservice.backends.limits import NO_LIMITS, Limits, call_limited, refuse_soft_limit
from taskservice.errors import PayloadError, PayloadSizeError, TimeLimitError
from taskservice.tasks import RetryPolicy, TaskDefinition, next_delay
from taskservice.texts import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Task

    from taskservice.backends.base import TaskFunction

__all__ = ["Arguments", "Attempt", "AttemptAgain", "attempt_of", "limits_of", "map_attempt_of", "retry_delay"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What a function is called with."""

    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptAgain:
    """Another attempt follows, in ``delay`` seconds; with other arguments if asked for."""

    delay: float
    detail: str
    arguments: Arguments | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """How to call a function once: ``call(run_id, arguments, attempt)``, attempts counted from 1.

    ``in_thread`` tells a plain call from one that returns an awaitable. ``again(error, attempt)``
    decides what follows an error; ``None`` makes it the run's own. ``limit`` is how long to wait for
    a call in a thread; one that is awaited knows its limits itself. ``func`` is what was handed in.
    """

    func: TaskFunction

    in_thread: bool
    call: Callable[[str, Arguments, int], Any]
    again: Callable[[Exception, int], AttemptAgain | None]
    limit: float | None = None


def attempt_of(func: TaskFunction) -> Attempt:
    """Return how ``func`` is called, or raise `LaunchOptionError` for limits that cannot be kept."""
    # A Celery task may be given other limits at any time.
    return _celery_attempt(func) if is_celery_task(func) else _own_attempt(func)


@lru_cache(maxsize=1024)
def _own_attempt(func: TaskFunction) -> Attempt:
    body = func.func if isinstance(func, TaskDefinition) else func
    policy = func.retry if isinstance(func, TaskDefinition) else None

    def again(error: Exception, attempt: int) -> AttemptAgain | None:
        delay = retry_delay(policy, error, attempt)
        return None if delay is None else AttemptAgain(delay=delay, detail=text_of(error, repr))

    limits = limits_of(func) if isinstance(func, TaskDefinition) else NO_LIMITS
    if not _is_async(body):
        return Attempt(
            func=func,
            in_thread=True,
            call=lambda _, arguments, __: body(*arguments.args, **arguments.kwargs),
            again=again,
            limit=_thread_limit(func, limits),
        )
    if limits == NO_LIMITS:
        return Attempt(
            func=func,
            in_thread=False,
            call=lambda _, arguments, __: body(*arguments.args, **arguments.kwargs),
            again=again,
        )

    def call(_: str, arguments: Arguments, __: int) -> Any:
        return call_limited(lambda: body(*arguments.args, **arguments.kwargs), limits)

    return Attempt(func=func, in_thread=False, call=call, again=again)


def map_attempt_of(func: TaskFunction, items: Sequence[Any], *, star: bool) -> Attempt:
    """Return how ``func`` is called with each of ``items``, one after another; no error is tried again."""
    body = func.func if isinstance(func, TaskDefinition) else func
    calls: list[Sequence[Any]] = list(items) if star else [(item,) for item in items]

    async def call_async(*_: object) -> list[Any]:
        return [await body(*args) for args in calls]

    def call(*_: object) -> list[Any]:
        return [body(*args) for args in calls]

    in_thread = not _is_async(body)
    return Attempt(func=func, in_thread=in_thread, call=call if in_thread else call_async, again=_never_again)


def limits_of(task: TaskDefinition[..., Any] | Task[..., Any]) -> Limits:
    """Return the task's own limits."""
    return Limits(soft=task.soft_time_limit, hard=task.time_limit)


def retry_delay(policy: RetryPolicy | None, error: Exception, attempt: int) -> float | None:
    """Return the seconds until the next attempt, or ``None`` if ``error`` is final."""
    # The same value comes out of the next attempt, so an error about it is never worth one; and a pool
    # that has killed a run at its limit cannot attempt it again, so nobody does.
    if policy is None or isinstance(error, PayloadError | PayloadSizeError | TimeLimitError):
        return None
    if not isinstance(error, policy.retry_for):
        return None

    delay = next_delay(policy, attempt, random=random())  # noqa: S311 - jitter, no secret
    return None if delay is None else delay.total_seconds()


def _never_again(_: Exception, __: int) -> None:
    return None


def _celery_attempt(task: Task[..., Any]) -> Attempt:
    from taskservice.backends.inline import InlineTask, RetryRequest

    inline = InlineTask(task)

    def call(run_id: str, arguments: Arguments, attempt: int) -> Any:
        return inline.attempt(run_id, arguments.args, arguments.kwargs, retries=attempt - 1)

    def again(error: Exception, _: int) -> AttemptAgain | None:
        if not isinstance(error, RetryRequest):
            return None

        arguments = Arguments(args=error.arguments, kwargs=error.keywords)
        return AttemptAgain(delay=error.delay, detail=error.reason, arguments=arguments)

    limit = _thread_limit(task, limits_of(task))
    return Attempt(func=task, in_thread=True, call=call, again=again, limit=limit)


def _thread_limit(func: TaskFunction, limits: Limits) -> float | None:
    if limits.soft is not None:
        refuse_soft_limit(function_name(func), "this process")

    return limits.hard


def _is_async(func: TaskFunction) -> bool:
    return iscoroutinefunction(func) or iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004 - the method itself is asked about
