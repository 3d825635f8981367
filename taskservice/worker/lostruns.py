"""Runs whose workers die: counted when they are delivered again, and given up when it is too often.

Celery delivers a message that is acknowledged late again and again, however many workers die with it. What
is leaned on is `Task.Request`, which Celery documents for requests of one's own. A first delivery costs
nothing; a further one is looked up, and counts if the run had begun.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

from billiard.einfo import ExceptionInfo
from celery import states
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state
from celery.worker.request import Request
from redis.exceptions import RedisError

from taskservice.errors import RunLostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery import Celery

    from taskservice.backends.letters_redis import RedisLetters

__all__ = ["guard_requests", "is_redelivered"]

logger = logging.getLogger(__name__)

# Celery 5.5 knows no other cancelling; of runs whose message goes back to its queue it says RETRY, too.
_ALWAYS_RETRIED: Final = "emit_retry" not in signature(Request.cancel).parameters


def guard_requests(app: Celery, letters: RedisLetters, most: int) -> None:
    """Have no task of ``app`` begin again once ``most`` workers have died with a run of it."""
    deaths = _Deaths(letters, most)
    for task in app.tasks.values():
        base = symbol_by_name(task.Request)
        if not getattr(base, "taskservice_guarded", False):
            task.Request = _guarded(base, deaths)


def is_redelivered(info: Mapping[str, Any] | None) -> bool:
    """Return what a message's ``delivery_info`` says."""
    return bool((info or {}).get("redelivered"))


def _guarded(base: Any, deaths: _Deaths) -> Any:
    class GuardedRequest(base):  # type: ignore[misc] # whatever request the task has
        """A request that is not run again once its workers have died often enough."""

        taskservice_guarded = True
        _counted = False
        _given_up = False

        def revoked(self) -> bool:
            """Return whether it must not run; asked right before it would, and maybe earlier."""
            if self._given_up or super().revoked():
                return True
            if self._counted or not self.task.acks_late or not is_redelivered(self.delivery_info):
                return False

            self._counted = True
            self._given_up = deaths.count(self)
            return self._given_up

        def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
            """Kill the run because the worker is being stopped, which no run is to blame for."""
            try:
                super().cancel(pool, signal, **({} if _ALWAYS_RETRIED else {"emit_retry": emit_retry}))
            finally:
                if self.time_start and self.task.acks_late:
                    deaths.forgive(self, waits_for_retry=emit_retry and not _ALWAYS_RETRIED)

        def on_timeout(self, soft: bool, timeout: float) -> None:
            with _request_known(self):
                super().on_timeout(soft, timeout)

        def on_failure(self, *args: Any, **kwargs: Any) -> Any:
            with _request_known(self):
                return super().on_failure(*args, **kwargs)

    return GuardedRequest


class _Deaths:
    """Counts how many workers died with a run; where nobody can tell, none did."""

    def __init__(self, letters: RedisLetters, most: int) -> None:
        self._letters = letters
        self._most = most

    def count(self, request: Any) -> bool:
        """Count the delivery before this one if it had begun, and return whether the run was given up."""
        died = 0
        with _bounded("was redelivered, its deaths were not counted", request):
            died = self._count(request)
        if died < self._most or worker_state.should_terminate:
            return False

        # Celery's own way for a failure that no pool process could report: the result, errbacks and
        # chord, signals, and the acknowledgement.
        request.on_failure(_raised(RunLostError(request.id, died)))
        return True

    def forgive(self, request: Any, *, waits_for_retry: bool) -> None:
        """Have the next delivery of a run that was stopped on purpose count for nothing."""
        with _bounded("was stopped, its next delivery may count", request):
            self._letters.deaths(request.id)
            if not _is_tracked(request):
                self._letters.count_death(request.id, -1)
            elif not waits_for_retry:
                _store_waiting(request)

    def _count(self, request: Any) -> int:
        self._letters.deaths(request.id)  # bounded in time, which Celery's own connection is not
        tracked = _is_tracked(request)
        if tracked and request.task.backend.get_state(request.id) != states.STARTED:
            return 0

        died = self._letters.count_death(request.id)
        if tracked and died < self._most:
            # So that a delivery which dies before it begins is not counted.
            _store_waiting(request)
        return died


@contextmanager
def _bounded(what: str, request: Any) -> Iterator[None]:
    """Let the worker's main loop go on without the answer, and say so."""
    try:
        yield
    except (RedisError, OSError) as found:
        logger.warning("run %s %s: %s", request.id, what, found, extra={"run_id": request.id})
    except Exception:  # of whatever result backend it is
        logger.exception("run %s %s", request.id, what, extra={"run_id": request.id})


@contextmanager
def _request_known(request: Any) -> Iterator[None]:
    """Have receivers of ``task_failure`` find the request, as they do in a pool process."""
    stack = request.task.request_stack
    stack.push(Context(request.request_dict))
    try:
        yield
    finally:
        stack.pop()


def _store_waiting(request: Any) -> None:
    context = Context(request.request_dict)
    request.task.backend.store_result(request.id, None, states.RECEIVED, request=context)


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
