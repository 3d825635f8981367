"""Messages made from one that Celery published, each with its own id and arguments.

A template is proved on the message it was taken from: what it makes of that one must be what Celery
made of it, or there is no template.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any, Final

from celery.utils.saferepr import saferepr

from taskservice.backends.seams import Envelope, record_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery, Task

__all__ = ["Message", "MessageTemplate", "apply_message", "template_of"]

_SHORT: Final = 200
_NUMBERS: Final = frozenset({int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Message:
    """What differs between the messages of one task."""

    id: str
    args: Sequence[Any]
    kwargs: dict[str, Any]


def apply_message(producer: Any, task: Task[..., Any], message: Message, options: Mapping[str, Any]) -> None:
    """Have Celery publish ``message`` with ``producer``; ``options`` are those of ``apply_async``."""
    task.apply_async(tuple(message.args), message.kwargs, task_id=message.id, producer=producer, **options)


def template_of(
    app: Celery, producer: Any, task: Task[..., Any], message: Message, options: Mapping[str, Any]
) -> MessageTemplate | None:
    """Return the template for messages like ``message``, of which nothing is sent.

    ``None`` where they go through an exchange, or where others would not be what Celery makes.
    """
    envelope = record_message(producer, lambda recorder: apply_message(recorder, task, message, options))
    template = MessageTemplate(app, envelope, message)
    return None if envelope.exchange or not template.makes(message) else template


class MessageTemplate:
    """One published message, from which others are made."""

    def __init__(self, app: Celery, envelope: Envelope, first: Message) -> None:
        self.envelope = envelope
        self._amqp: Any = app.amqp
        # A setting from 5.7 on; 3 is what it was before.
        self._levels = getattr(app.conf, "task_repr_maxlevels", 3)
        # As Celery has it: a run that no other one launched is its own root.
        self._own_root = envelope.headers["root_id"] == first.id
        self._headers = {key: envelope.headers[key] for key in envelope.headers if key != "compression"}
        self._properties = {
            key: value for key, value in envelope.properties.items() if key != "delivery_info"
        }

    def makes(self, message: Message) -> bool:
        """Return whether it makes, of its own message, what Celery made of it."""
        envelope = self.envelope
        made = self.fill(message, at=self._properties.get("timestamp"))
        return made == (envelope.wire_body, envelope.headers, self._properties)

    def fill(
        self, message: Message, *, at: float | None
    ) -> tuple[str | bytes, dict[str, Any], dict[str, Any]]:
        """Return body, headers and properties of ``message``, published ``at`` these epoch seconds."""
        args = tuple(message.args)
        headers = self._headers.copy()
        headers["id"] = message.id
        if self._own_root:
            headers["root_id"] = message.id
        headers["argsrepr"] = self._repr(args, self._amqp.argsrepr_maxsize)
        headers["kwargsrepr"] = self._repr(message.kwargs, self._amqp.kwargsrepr_maxsize)
        body = self.envelope.encode(args, message.kwargs, headers)
        properties = {**self._properties, "correlation_id": message.id}
        if at is not None:
            properties["timestamp"] = at
        return body, headers, properties

    def prepare(self, channel: Any, message: Message) -> tuple[Any, int]:
        """Return ``message`` as ``channel`` publishes it now, and the size of its body."""
        envelope = self.envelope
        body, headers, properties = self.fill(message, at=int(time()))
        prepared = channel.prepare_message(
            body,
            envelope.priority,
            envelope.content_type,
            envelope.content_encoding,
            headers,
            properties,
        )
        return prepared, len(body)

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
