"""A worker's dead letters: what it writes when a run fails for good.

Celery sends ``task_failure`` in the pool's process for an error, in the main process for a hard time limit
and a lost worker. Writing is bounded in time, and its failure is logged and nobody else's.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from time import time
from typing import TYPE_CHECKING, Any, Final

from celery import signals
from celery.app.task import Context
from redis.exceptions import RedisError

from taskservice.backends.letters import cause_of, cut_traceback, describe_error
from taskservice.backends.letters_redis import RedisLetters
from taskservice.backends.packed import PACKED, unfinished_calls
from taskservice.backends.storage import open_storage
from taskservice.deadletters import DeadLetter
from taskservice.errors import ConfigurationError, RunLostError
from taskservice.worker.lostruns import guard_requests, is_redelivered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["install_dead_letters"]

logger = logging.getLogger(__name__)

SECONDS: Final = 2.0
"""How long a worker waits for Redis before it goes on without it."""
_AWAY: Final = (RedisError, OSError)


def install_dead_letters(app: Celery, settings: Settings) -> None:
    """Have workers of ``app`` keep what fails for good; a second call does nothing."""

    @cache  # the app may be told where only after this
    def letters() -> RedisLetters | None:
        try:
            storage = open_storage(app, "dead letters", seconds=SECONDS)
        except ConfigurationError as error:
            logger.warning("this worker keeps no dead letters: %s", error)
            return None
        return RedisLetters(
            storage,
            count=settings.dead_letter_count,
            seconds=settings.dead_letter_retention.total_seconds(),
        )

    def write(sender: Any = None, task_id: str = "", exception: Any = None, **given: Any) -> None:
        ours = getattr(sender, "app", None) is app and not sender.name.startswith("celery.")
        if ours and (found := letters()) is not None:
            _write(found, sender, str(task_id), exception, given)

    def guard(sender: Any = None, **_: object) -> None:
        if getattr(sender, "app", None) is app and (found := letters()) is not None:
            guard_requests(app, found, settings.max_deliveries)

    uid = f"taskservice-dead-letters-{id(app)}"
    signals.task_failure.connect(write, weak=False, dispatch_uid=uid)
    signals.worker_init.connect(guard, weak=False, dispatch_uid=uid)


def _write(
    letters: RedisLetters, task: Any, run_id: str, error: BaseException, given: dict[str, Any]
) -> None:
    request = task.request_stack.top
    if request is None or request.id != run_id:
        request = Context({"id": run_id, "args": given.get("args"), "kwargs": given.get("kwargs")})
    if request.is_eager:
        return  # it ran in the process that launched it, which keeps it

    told = ""
    try:
        for letter in _letters_of(letters, task, request, error, given):
            told = letter.id
            letters.add(letter)
            logger.warning(
                "run %s became a dead letter: %s",
                letter.id,
                letter.cause,
                extra={"run_id": letter.id, "cause": letter.cause.value},
            )
    except _AWAY as found:
        logger.error("run %s left no dead letter, Redis is away: %s", told or run_id, found)
    except (TypeError, ValueError) as found:
        logger.error("run %s left no dead letter, its arguments are not JSON: %s", told or run_id, found)


def _letters_of(
    letters: RedisLetters, task: Any, request: Context, error: BaseException, given: dict[str, Any]
) -> Iterable[DeadLetter]:
    type_name, message = describe_error(error)
    info: Any = request.delivery_info or {}
    attempts = (request.retries or 0) + 1
    letter = DeadLetter(
        id=str(request.id),
        task=task.name,
        args=tuple(request.args or ()),
        kwargs=dict(request.kwargs or {}),
        cause=cause_of(task, error, attempts),
        error_type=type_name,
        error_message=message,
        traceback=cut_traceback(str(getattr(given.get("einfo"), "traceback", "") or "")),
        attempts=attempts,
        deliveries=_deliveries(letters, request, error),
        queue=_queue_of(task.app, info),
        priority=info.get("priority"),
        worker=request.hostname,
        at=time(),
    )
    if not task.name.startswith(PACKED):
        yield letter
        return

    name, calls = letter.args
    for run_id, args, kwargs in unfinished_calls(task.app, calls):
        yield replace(letter, id=run_id, task=name, args=tuple(args), kwargs=kwargs)


def _deliveries(letters: RedisLetters, request: Context, error: BaseException) -> int:
    if isinstance(error, RunLostError):
        return error.deliveries

    return 1 + (letters.deaths(str(request.id)) if is_redelivered(request.delivery_info) else 0)


def _queue_of(app: Celery, info: Mapping[str, Any]) -> str | None:
    exchange, key = info.get("exchange"), info.get("routing_key")
    if not exchange:
        return key

    for name, queue in app.amqp.queues.items():
        if queue.exchange and queue.exchange.name == exchange and queue.routing_key == key:
            return str(name)
    return None
