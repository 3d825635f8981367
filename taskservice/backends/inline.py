"""Celery tasks, as they are, run in this process: no broker, no message, no result backend.

A run goes through Celery's own tracer, so bound tasks, hooks, signals and ``autoretry_for`` behave
as on a worker. Two places of Celery are leaned on, each with a self-check:

- ``celery/app/task.py``, ``Task.retry``: with ``request.is_eager`` it raises ``Retry`` and
publishes
  nothing. ``_checked_retry`` refuses an exception without the signature that path attaches.
- ``celery/app/task.py``, ``Task.update_state``: writes to the result backend even then. It is
  replaced on the instance by one that is silent while a run of ours is under way in this context.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from celery.app.trace import build_tracer
from celery.exceptions import Retry
from celery.local import maybe_evaluate

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Task

__all__ = ["InlineTask", "RetryRequest"]

_MARK: Final = "_taskservice_silenced"
_running_inline: ContextVar[bool] = ContextVar("_running_inline", default=False)


class RetryRequest(Exception):  # noqa: N818 - not a failure: the task asked to be run again
    """The task asked for another attempt: in ``delay`` seconds, with these arguments."""

    def __init__(self, delay: float, args: Sequence[Any], kwargs: Mapping[str, Any], reason: str) -> None:
        super().__init__(delay, args, kwargs, reason)
        self.delay = delay
        self.arguments = list(args)
        self.keywords = dict(kwargs)
        self.reason = reason


class InlineTask:
    """One Celery task, ready to be attempted in this process."""

    def __init__(self, task: Task[..., Any]) -> None:
        self._task: Task[..., Any] = maybe_evaluate(task)
        self._trace = build_tracer(
            self._task.name, self._task, eager=True, propagate=False, app=self._task.app
        )
        _silence_update_state(self._task)

    def attempt(self, run_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, retries: int) -> Any:
        """Run it once, in the calling thread; return the value or raise what the task raised.

        `RetryRequest` when it asked for another attempt.
        """
        token = _running_inline.set(True)
        try:
            outcome = self._trace(run_id, list(args), dict(kwargs), self._request(run_id, retries))
        finally:
            _running_inline.reset(token)

        if outcome.info is None:
            return outcome.retval

        error: Any = outcome.info.retval
        if isinstance(error, Retry):
            raise _checked_retry(error, self._task)
        raise error

    def _request(self, run_id: str, retries: int) -> dict[str, Any]:
        return {
            "id": run_id,
            "root_id": run_id,
            "task": self._task.name,
            "retries": retries,
            "is_eager": True,
            "ignore_result": self._task.ignore_result,
            "delivery_info": {"is_eager": True},
        }


def _checked_retry(error: Any, task: Task[..., Any]) -> RetryRequest:
    if error.sig is None:
        raise ConfigurationError(
            f"task {task.name!r} raised Retry by itself: call self.retry(), "
            "or, if it does, this Celery's Task.retry has changed and taskservice must follow"
        )

    when = error.when
    if isinstance(when, datetime):
        delay = (when - datetime.now(tz=when.tzinfo)).total_seconds()
    else:
        delay = float(when or 0)
    reason = repr(error.exc) if error.exc is not None else ""
    return RetryRequest(max(0.0, delay), error.sig.args, error.sig.kwargs, reason)


def _silence_update_state(task: Task[..., Any]) -> None:
    original = getattr(task, "update_state", None)
    if original is None:
        raise ConfigurationError("Task.update_state is gone from this Celery; see taskservice/inline")
    if getattr(original, _MARK, False):
        return

    def update_state(*args: Any, **kwargs: Any) -> None:
        if not _running_inline.get():
            original(*args, **kwargs)

    setattr(update_state, _MARK, True)
    task.update_state = update_state  # type: ignore[method-assign]
