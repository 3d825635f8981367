"""Many messages of one task, published in few round trips.

Celery publishes the first one into a recorder; the others are made from that envelope, and travel in
pipelines. Where that would not be what Celery does, it publishes each of them itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taskservice.backends.definitions import QueuedTask
from taskservice.backends.publishing import keep_expired, publishing_time, quiet_results
from taskservice.backends.seams import batch_of, batching, publishes_plainly
from taskservice.backends.templates import Message, apply_message, template_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery, Task

    from taskservice.backends.templates import MessageTemplate

__all__ = ["BATCH", "BATCH_BYTES", "Message", "publish_all"]

BATCH: Final = 500
"""The most messages in one round trip."""
BATCH_BYTES: Final = 4_000_000


def publish_all(
    app: Celery,
    task: Task[..., Any],
    messages: Sequence[Message],
    options: Mapping[str, Any],
    *,
    batch: int = BATCH,
) -> None:
    """Send ``messages``, in order, ``batch`` in a round trip; it blocks.

    ``options`` are those of ``apply_async``. If the broker goes away in between, some may have been sent,
    and none is sent twice.
    """
    with quiet_results(app), app.producer_or_acquire() as producer:
        if not publishes_plainly(app, task, QueuedTask) or not _publish_alike(
            app, producer, task, messages, options, size=batch
        ):
            _publish_each(keep_expired(producer), task, messages, options, size=batch)


def _publish_each(
    producer: Any,
    task: Task[..., Any],
    messages: Sequence[Message],
    options: Mapping[str, Any],
    *,
    size: int,
) -> None:
    # kombu holds them back for a pipeline where the transport has one, and sends them at once elsewhere.
    with batching(producer, size):
        for message in messages:
            apply_message(producer, task, message, {**options, **publishing_time()})


def _publish_alike(  # noqa: PLR0913 - one launch, and all of it
    app: Celery,
    producer: Any,
    task: Task[..., Any],
    messages: Sequence[Message],
    options: Mapping[str, Any],
    *,
    size: int,
) -> bool:
    """Send them all as variations of the first one, or none of them and return False."""
    timed = {**options, **publishing_time()}
    template = template_of(app, producer, task, messages[0], timed)
    if template is None:
        return False

    # With Celery's own policy for a broker that is not there yet; a pipeline is never repeated.
    policy = app.conf.task_publish_retry_policy
    for entity in template.envelope.declare:
        producer.maybe_declare(entity, retry=bool(app.conf.task_publish_retry), **policy)
    channel = producer.channel
    batch = batch_of(channel, size)
    if batch is None:
        return False

    try:
        _fill(batch, channel, template, messages)
    finally:
        batch.close()
    return True


def _fill(batch: Any, channel: Any, template: MessageTemplate, messages: Sequence[Message]) -> None:
    envelope = template.envelope
    total = 0
    for message in messages:
        prepared, size = template.prepare(channel, message)
        batch.publish(prepared, exchange=envelope.exchange, routing_key=envelope.routing_key)
        total += size
        if total > BATCH_BYTES:
            batch.flush()
            total = 0
    batch.flush()
