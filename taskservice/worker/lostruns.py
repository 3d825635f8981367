"""Runs whose workers die: counted when they are delivered again, and given up when it is too often.

Celery delivers a message that is acknowledged late again and again, however many workers die with it. What
is leaned on is `Task.Request`, which Celery documents for requests of one's own. A first delivery costs
nothing; a further one is looked up, and counts if the run had begun.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import states
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state
from redis.exceptions import RedisError

from taskservice.errors import RunLostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery import Celery

    from taskservice.backends.letters_redis import RedisLetters

__all__ = ["guard_requests", "is_redelivered"]

logger = logging.getLogger(__name__)


def guard_requests(app: Celery, letters: RedisLetters, most: int) -> None:
    """Have no task of ``app`` begin again once ``most`` workers have died with a run of it."""
    for task in app.tasks.values():
        task.Request = _guarded(symbol_by_name(task.Request), letters, most)


def is_redelivered(info: Mapping[str, Any] | None) -> bool:
    """Return what a message's ``delivery_info`` says."""
    return bool((info or {}).get("redelivered"))


def _guarded(base: Any, letters: RedisLetters, most: int) -> Any:
    if getattr(base, "taskservice_guarded", False):
        return base

    class GuardedRequest(base):  # type: ignore[misc] # whatever request the task has
        """A request that is not run again once its workers have died often enough."""

        taskservice_guarded = True
        _given_up = False
        _counted = False

        def revoked(self) -> bool:
            """Return whether it must not run; asked right before it would, and maybe earlier."""
            if self._given_up or super().revoked():
                return True
            if self._counted or not self.task.acks_late or not is_redelivered(self.delivery_info):
                return False

            self._counted = True
            died = _count_death(letters, self, most)
            if died < most or worker_state.should_terminate:
                return False
            self._given_up = True
            # Celery's own way for a failure that no pool process could report: the result, errbacks and
            # chord, signals, and the acknowledgement.
            self.on_failure(_raised(RunLostError(self.id, died)))
            return True

        def on_timeout(self, soft: bool, timeout: float) -> None:
            with _request_known(self):
                super().on_timeout(soft, timeout)

        def on_failure(self, *args: Any, **kwargs: Any) -> Any:
            with _request_known(self):
                return super().on_failure(*args, **kwargs)

    return GuardedRequest


@contextmanager
def _request_known(request: Any) -> Iterator[None]:
    """Have receivers of ``task_failure`` find the request, as they do in a pool process."""
    stack = request.task.request_stack
    stack.push(Context(request.request_dict))
    try:
        yield
    finally:
        stack.pop()


def _count_death(letters: RedisLetters, request: Any, most: int) -> int:
    """Return how many workers died with this run; 0 if it had not begun, or nobody can tell."""
    try:
        letters.deaths(request.id)  # bounded in time, which Celery's own connection is not
        tracked = _is_tracked(request)
        if tracked and request.task.backend.get_state(request.id) != states.STARTED:
            return 0
        died = letters.count_death(request.id)
        if tracked and died < most:
            # So that a delivery which dies before it begins is not counted.
            context = Context(request.request_dict)
            request.task.backend.store_result(request.id, None, states.RECEIVED, request=context)
    except (RedisError, OSError) as found:
        logger.warning("run %s was redelivered, its deaths were not counted: %s", request.id, found)
        return 0
    except Exception:  # of whatever result backend it is; the worker's main loop must go on
        logger.exception("run %s was redelivered, its deaths were not counted", request.id)
        return 0
    else:
        return died


def _is_tracked(request: Any) -> bool:
    task = request.task
    return bool(task.track_started and not request.ignore_result) and not isinstance(
        task.backend, DisabledBackend
    )


def _raised(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except RunLostError:
        return ExceptionInfo()
