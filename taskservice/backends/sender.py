"""Sending messages from templates, as long as these are still what Celery would publish."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from celery.backends.base import Backend
from celery.backends.redis import RedisBackend

from taskservice.backends.bulk import BATCH_BYTES
from taskservice.backends.definitions import QueuedTask
from taskservice.backends.line import Line, NotSentError, open_line
from taskservice.backends.publishing import publishing_time, quiet_results
from taskservice.backends.seams import execution_options, publishes_plainly
from taskservice.backends.templates import Message, MessageTemplate, template_of

if TYPE_CHECKING:
    from celery import Celery, Task

__all__ = ["Declined", "PlainSender", "Verdict"]

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 1.0
"""How long a broker that could not be reached is left to Celery, which tries again."""


@dataclass(frozen=True, slots=True)
class Declined:
    """Nothing was sent: it is for Celery to publish, and ``for_good`` whatever comes."""

    for_good: bool = False


Verdict = Exception | Declined | None
"""``None``: accepted. An error leaves open whether it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    state: tuple[Any, ...]
    template: MessageTemplate | None


class PlainSender:
    """Publishes runs without options on plain Redis brokers; used by one thread, which it blocks."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._line: Line | None = None
        self._kept: dict[str, _Kept] = {}
        self._state: tuple[Any, ...] = ()
        self._not_before = 0.0

    def send(self, wanted: Sequence[tuple[Task[..., Any], Message]]) -> list[Verdict]:
        """Send these messages and return what came of each."""
        verdicts: list[Verdict] = [Declined()] * len(wanted)
        if monotonic() < self._not_before:
            return verdicts
        try:
            line = self._opened()
        except Exception as error:  # noqa: BLE001 - Celery meets it again, and tries as its policy says
            self._give_up(error)
            return verdicts
        if line is None:
            return [Declined(for_good=True)] * len(wanted)

        plain = {task.name: self._is_plain(task) for task, _ in wanted}
        put: list[int] = []
        total = 0
        for index, (task, message) in enumerate(wanted):
            size = self._put(line, task, message) if plain[task.name] else None
            if size is None:
                continue
            put.append(index)
            total += size
            if total > BATCH_BYTES:
                self._flush(line, put, verdicts)
                put, total = [], 0
                if self._line is None:
                    return verdicts
        self._flush(line, put, verdicts)
        return verdicts

    def close(self) -> None:
        """Give the connection up."""
        self._kept.clear()
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _flush(self, line: Line, put: Sequence[int], verdicts: list[Verdict]) -> None:
        if not put:
            return
        try:
            answers: Sequence[Verdict] = line.send()
        except NotSentError as error:
            self._give_up(error)
            return
        except Exception as error:  # noqa: BLE001 - who launched gets it
            self.close()
            answers = [error] * len(put)
        for index, answer in zip(put, answers, strict=True):
            verdicts[index] = answer

    def _give_up(self, error: Exception) -> None:
        logger.debug("the broker could not be reached: %s", error)
        self.close()
        self._not_before = monotonic() + AGAIN_SECONDS

    def _opened(self) -> Line | None:
        state = _app_state(self._app)
        if self._line is None or state != self._state:
            self.close()
            self._state = state
            self._line = open_line(self._app)
        return self._line

    def _is_plain(self, task: Task[..., Any]) -> bool:
        # Celery tells the result backend of each run; on Redis that is a subscription, which nobody needs.
        results = type(self._app.backend)
        told = not issubclass(results, RedisBackend) and results.on_task_call is not Backend.on_task_call
        return not told and publishes_plainly(self._app, task, QueuedTask)

    def _put(self, line: Line, task: Task[..., Any], message: Message) -> int | None:
        try:
            template = self._template(line, task, message)
            return None if template is None else line.put(template, message)
        except Exception as error:  # noqa: BLE001 - Celery comes to it as well, and tells the caller
            logger.debug("run %s is not plain: %r", message.id, error)
            return None

    def _template(self, line: Line, task: Task[..., Any], message: Message) -> MessageTemplate | None:
        state = _task_state(self._app, task)
        kept = self._kept.get(task.name)
        if kept is None or kept.state != state:
            kept = _Kept(state=state, template=self._made(line, task, message))
            self._kept[task.name] = kept
        return kept.template

    def _made(self, line: Line, task: Task[..., Any], message: Message) -> MessageTemplate | None:
        app = self._app
        if app.conf.task_always_eager:
            # It would be run here instead of being recorded.
            return None

        with quiet_results(app):
            template = template_of(app, line.producer, task, message, publishing_time())
        # Another serializer may be anybody's, and look at what only the caller's thread has.
        if template is None or template.envelope.serializer != "json":
            return None

        retry = bool(app.conf.task_publish_retry)
        line.declare(template, retry=retry, policy=app.conf.task_publish_retry_policy)
        return template


def _app_state(app: Celery) -> tuple[Any, ...]:
    amqp: Any = app.amqp
    conf: Any = app.conf
    return amqp, amqp.send_task_message, tuple(conf.maps), dict(conf.changes)


def _task_state(app: Celery, task: Task[..., Any]) -> tuple[Any, ...]:
    """Return all of ``task`` that its messages depend on, and where they go now."""
    options = execution_options(task)
    if isinstance(task, QueuedTask):
        own = {"queue": task.definition_queue, "priority": task.definition_priority}
        options.update({name: value for name, value in own.items() if value is not None})
    router: Any = app.amqp.router
    return task, task.ignore_result, router.route(dict(options), task.name, (), {}, task)
