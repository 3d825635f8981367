"""A line to a Redis broker: one connection on which one thread publishes, and hears of each message.

Two places of kombu and redis-py are leaned on. Where one of them is gone, `open_line` gives no line,
Celery publishes by itself, and the log says so:

- ``PublishBatch.pipeline`` (kombu/transport/redis.py): executed here, so that each message has its own
  answer; ``flush`` afterwards finds nothing left to send. Its length tells how many commands a message is.
- ``ConnectionPool.get_connection`` (redis/connection.py), which connects anew if it must: what fails
  there has sent nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from kombu.transport.redis import Transport
from redis.client import Pipeline
from redis.connection import ConnectionPool

from taskservice.backends.seams import batch_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from taskservice.backends.templates import Message, MessageTemplate

__all__ = ["Line", "NotSentError", "open_line"]

logger = logging.getLogger(__name__)

# kombu sends a full batch by itself, and this one is sent here.
_NEVER_FULL: Final = 1 << 40


class NotSentError(Exception):
    """Nothing has been sent, most likely since the broker could not be reached."""


class Line:
    """A connection of its own to the app's broker, for one thread."""

    def __init__(self, connection: Any, producer: Any, batch: Any) -> None:
        self.producer = producer
        self._connection = connection
        self._channel = connection.default_channel
        self._batch = batch
        self._ends: list[int] = []

    def put(self, template: MessageTemplate, message: Message) -> int:
        """Add ``message`` to those that `send` sends, and return the size of its body."""
        envelope = template.envelope
        prepared, size = template.prepare(self._channel, message)
        self._batch.publish(prepared, exchange=envelope.exchange, routing_key=envelope.routing_key)
        self._ends.append(len(self._batch.pipeline))
        return size

    def send(self) -> Sequence[Exception | None]:
        """Send what was put, in one round trip; return for each message the broker's error.

        `NotSentError` if the broker cannot be reached. Any other error leaves open what was sent.
        """
        ends, self._ends = self._ends, []
        pipeline = self._batch.pipeline
        if len(pipeline) != ends[-1]:
            # kombu empties it where it cannot add a message.
            raise NotSentError("the pipeline was given up")
        try:
            pipeline.connection_pool.release(pipeline.connection_pool.get_connection())
        except Exception as error:
            raise NotSentError(str(error)) from error

        answers = pipeline.execute(raise_on_error=False)
        self._batch.flush()
        return [_error(answers[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def declare(self, template: MessageTemplate, *, retry: bool, policy: dict[str, Any]) -> None:
        """Have what ``template`` needs declared; as with Celery, once for each connection."""
        for entity in template.envelope.declare:
            self.producer.maybe_declare(entity, retry=retry, **policy)

    def close(self) -> None:
        """Give the connection up, with what was not sent."""
        try:
            self._batch.discard()
            self._batch.close()
            self._connection.release()
        except Exception as error:  # noqa: BLE001 - a broken connection may break once more
            logger.debug("line to the broker closed badly: %r", error)


def open_line(app: Celery) -> Line | None:
    """Return a line to the app's broker, or ``None`` where messages cannot go in pipelines.

    Raises what kombu raises if the broker cannot be reached at once; trying again is Celery's part.
    """
    connection: Any = app.connection_for_write()
    connection.transport_options = {**connection.transport_options, "max_retries": 0}
    batch = None
    try:
        if connection.get_transport_cls() is Transport and _seams_are_there():
            batch = batch_of(connection.default_channel, _NEVER_FULL)
        if batch is not None:
            return Line(connection, app.amqp.Producer(connection, auto_declare=False), batch)
    except BaseException:
        connection.release()
        raise

    connection.release()
    return None


def _seams_are_there() -> bool:
    gone = [f"{home.__name__}.{name}" for home, name in _SEAMS if not hasattr(home, name)]
    if gone:
        logger.error("%s is gone; taskservice.backends.line must follow", gone[0])
    return not gone


_SEAMS: Final[tuple[tuple[type, str], ...]] = (
    (Pipeline, "execute"),
    (Pipeline, "__len__"),
    (ConnectionPool, "get_connection"),
)


def _error(answers: Sequence[Any]) -> Exception | None:
    return next((answer for answer in answers if isinstance(answer, Exception)), None)
