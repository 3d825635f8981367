"""Many messages of one task, published in few round trips.

Celery publishes the first one into a recorder; the others are made from that envelope, and travel in
pipelines. Where that would not be what Celery does, it publishes each of them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery.utils.saferepr import saferepr

from taskservice.backends.definitions import QueuedTask
from taskservice.backends.publishing import keep_expired, quiet_results
from taskservice.backends.seams import Envelope, batch_of, publishes_plainly, record_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery, Task

__all__ = ["BATCH", "Message", "publish_all"]

BATCH: Final = 500
"""The most messages in one round trip."""
BATCH_BYTES: Final = 4_000_000
_SHORT: Final = 200


@dataclass(frozen=True, slots=True)
class Message:
    """What differs between the messages of one task."""

    id: str
    args: Sequence[Any]
    kwargs: dict[str, Any]


def publish_all(
    app: Celery, task: Task[..., Any], messages: Sequence[Message], options: Mapping[str, Any]
) -> None:
    """Send ``messages``, in order; it blocks. ``options`` are those of ``apply_async``.

    If the broker goes away in between, some may have been sent, and none is sent twice.
    """
    with quiet_results(app), app.producer_or_acquire() as producer:
        if not publishes_plainly(app, task, QueuedTask) or not _publish_alike(
            app, producer, task, messages, options
        ):
            _publish_each(keep_expired(producer), task, messages, options)


def _publish_each(
    producer: Any, task: Task[..., Any], messages: Sequence[Message], options: Mapping[str, Any]
) -> None:
    # kombu holds them back for a pipeline where the transport has one, and sends them at once elsewhere.
    with producer.batch(max_size=BATCH):
        for message in messages:
            _apply(producer, task, message, options)


def _apply(producer: Any, task: Task[..., Any], message: Message, options: Mapping[str, Any]) -> None:
    task.apply_async(tuple(message.args), message.kwargs, task_id=message.id, producer=producer, **options)


def _publish_alike(
    app: Celery,
    producer: Any,
    task: Task[..., Any],
    messages: Sequence[Message],
    options: Mapping[str, Any],
) -> bool:
    """Send them all as variations of the first one, or none of them and return False."""
    first = messages[0]
    envelope = record_message(producer, lambda recorder: _apply(recorder, task, first, options))
    template = _Template(app, envelope, first)
    if envelope.exchange or not template.makes(first):
        return False

    # With Celery's own policy for a broker that is not there yet; a pipeline is never repeated.
    policy = app.conf.task_publish_retry_policy
    for entity in envelope.declare:
        producer.maybe_declare(entity, retry=bool(app.conf.task_publish_retry), **policy)
    channel = producer.channel
    batch = batch_of(channel, BATCH)
    if batch is None:
        return False

    try:
        _fill(batch, channel, template, messages)
    finally:
        batch.close()
    return True


def _fill(batch: Any, channel: Any, template: _Template, messages: Sequence[Message]) -> None:
    envelope = template.envelope
    size = 0
    for message in messages:
        body, headers, properties = template.fill(message)
        prepared = channel.prepare_message(
            body,
            envelope.priority,
            envelope.content_type,
            envelope.content_encoding,
            headers,
            properties,
        )
        batch.publish(prepared, exchange=envelope.exchange, routing_key=envelope.routing_key)
        size += len(body)
        if size > BATCH_BYTES:
            batch.flush()
            size = 0
    batch.flush()


class _Template:
    """One published message, from which the others of its launch are made."""

    def __init__(self, app: Celery, envelope: Envelope, first: Message) -> None:
        self.envelope = envelope
        self._amqp: Any = app.amqp
        self._levels = app.conf.task_repr_maxlevels
        # As Celery has it: a run that no other one launched is its own root.
        self._own_root = envelope.headers["root_id"] == first.id
        self._headers = {key: envelope.headers[key] for key in envelope.headers if key != "compression"}
        self._properties = {
            key: value for key, value in envelope.properties.items() if key != "delivery_info"
        }

    def makes(self, message: Message) -> bool:
        """Return whether it makes, of its own message, what Celery made of it."""
        envelope = self.envelope
        made = self.fill(message)
        return made == (envelope.wire_body, envelope.headers, self._properties)

    def fill(self, message: Message) -> tuple[str | bytes, dict[str, Any], dict[str, Any]]:
        """Return body, headers and properties of ``message``."""
        args = tuple(message.args)
        headers = self._headers.copy()
        headers["id"] = message.id
        if self._own_root:
            headers["root_id"] = message.id
        headers["argsrepr"] = self._repr(args, self._amqp.argsrepr_maxsize)
        headers["kwargsrepr"] = self._repr(message.kwargs, self._amqp.kwargsrepr_maxsize)
        body = self.envelope.encode(args, message.kwargs, headers)
        return body, headers, {**self._properties, "correlation_id": message.id}

    def _repr(self, value: Any, maxsize: int) -> str:
        if not value:
            return repr(value)
        # Of a few numbers Celery makes what Python does, and takes twenty times as long.
        if type(value) is tuple and _NUMBERS.issuperset(map(type, value)):
            short = repr(value)
            if len(short) < _SHORT <= maxsize:
                return short
        text: str = saferepr(value, maxsize, maxlevels=self._levels)
        return text


_NUMBERS: Final = frozenset({int, float, bool, type(None)})
