"""Private places of Celery and kombu that launching many at once leans on, each with a self-check.

- ``Producer._publish`` (kombu/messaging.py): what ``publish`` hands on once everything about a message
  is settled. `record_message` lets Celery publish one message of a launch into it, and so learns its
  envelope; a message that does not come through there is a `ConfigurationError`.
- ``Channel.create_publish_batch`` (kombu/transport/redis.py): the pipeline behind ``Producer.batch``.
  Where a channel has none, as before kombu 5.7, or says that it is not safe, messages go one by one.
- ``Task._get_exec_options`` (celery/app/task.py): a task's own options, for `execution_options`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from celery import Task, signals
from celery.app.amqp import AMQP
from celery.app.base import Celery
from celery.app.routes import MapRoute
from kombu import Producer
from kombu.compression import compress
from kombu.serialization import dumps
from kombu.transport.redis import Channel

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Envelope",
    "batch_of",
    "batching",
    "execution_options",
    "publishes_plainly",
    "record_message",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """All about one message as Celery publishes it; others of its launch differ in id and arguments."""

    body: tuple[Any, dict[str, Any], dict[str, Any]]
    serializer: str | None
    compression: str | None
    priority: int
    content_type: str
    content_encoding: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    exchange: str
    routing_key: str
    declare: list[Any]
    wire_body: str | bytes

    def encode(self, args: Any, kwargs: dict[str, Any], headers: dict[str, Any]) -> str | bytes:
        """Return a body with these arguments, encoded as this one's was; may add to ``headers``."""
        encoded: str | bytes
        _, _, encoded = dumps((args, kwargs, self.body[2]), serializer=self.serializer)
        if self.compression:
            encoded, headers["compression"] = compress(encoded, self.compression)
        return encoded


class _Recorder(Producer):
    recorded: Envelope | None = None

    def publish(self, body: Any, **options: Any) -> Any:  # type: ignore[override] # kombu's are many
        self._body = body
        self._options = options
        return super().publish(body, **options)

    def _publish(  # type: ignore[override] # noqa: PLR0913, PLR0917 - kombu's signature
        self,
        body: Any,
        priority: int,
        content_type: str,
        content_encoding: str,
        headers: dict[str, Any],
        properties: dict[str, Any],
        routing_key: str,
        mandatory: bool,
        immediate: bool,
        exchange: str,
        declare: list[Any],
        *_: Any,
        **__: Any,
    ) -> None:
        self.recorded = Envelope(
            body=self._body,
            serializer=self._options.get("serializer"),
            compression=self._options.get("compression"),
            priority=priority,
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers,
            properties=properties,
            exchange=exchange,
            routing_key=routing_key,
            declare=declare,
            wire_body=body,
        )


def record_message(producer: Any, publish: Callable[[Any], object]) -> Envelope:
    """Return the message that ``publish(producer)`` would send with ``producer``; nothing is sent."""
    if not isinstance(vars(Producer).get("_publish"), FunctionType):
        raise ConfigurationError("Producer._publish is gone; taskservice.backends.seams must follow")

    recorder = _Recorder(producer.connection, auto_declare=False)
    publish(recorder)
    if recorder.recorded is None:
        raise ConfigurationError(
            "a message was not published through Producer._publish; taskservice.backends.seams must follow"
        )
    return recorder.recorded


_OWN: Final = (
    (Task, "apply_async", "celery.app.task"),
    (Task, "shadow_name", "celery.app.task"),
    (Celery, "send_task", "celery.app.base"),
    (AMQP, "_create_task_sender", "celery.app.amqp"),
    (AMQP, "as_task_v2", "celery.app.amqp"),
    (Producer, "publish", "kombu.messaging"),
    (Channel, "basic_publish", "kombu.transport.virtual.base"),
    (Channel, "_put", "kombu.transport.redis"),
    (Channel, "prepare_message", "kombu.transport.virtual.base"),
)


def publishes_plainly(app: Celery, task: Task[..., Any], own: type[Task[..., Any]]) -> bool:
    """Return whether Celery's messages for ``task`` differ in nothing but id and arguments.

    Not so where somebody listens to, patches or overrides a step of publishing, or routes by a
    function. ``own`` is our base class of tasks, whose ``apply_async`` is known.
    """
    listened = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)
    if any(signal.receivers for signal in listened) or app.conf.task_send_sent_event:
        return False
    if app.conf.task_protocol != 2 or type(app.amqp) is not AMQP:
        return False
    if not all(isinstance(route, MapRoute) for route in app.amqp.routes):
        return False

    kind = type(task)
    overridden = {kind.apply_async, kind.shadow_name} - {own.apply_async, Task.apply_async, Task.shadow_name}
    patched = [name for home, name, module in _OWN if not _is_from(_found(home, name), module)]
    instance = {"apply_async", "shadow_name"} & vars(task).keys() or "send_task" in vars(app)
    pydantic = getattr(task, "_dump_pydantic_arguments", None) is not None
    return not (overridden or patched or instance or pydantic or "send_task" in _above(type(app)))


def execution_options(task: Task[..., Any]) -> dict[str, Any]:
    """Return the options of ``apply_async`` that ``task`` itself has: its queue, priority and so on."""
    found = getattr(task, "_get_exec_options", None)
    if found is None:
        raise ConfigurationError("Task._get_exec_options is gone; taskservice.backends.seams must follow")

    return {key: value for key, value in found().items() if value is not None}


def batch_of(channel: Any, max_size: int) -> Any | None:
    """Return a pipeline for ``channel``'s messages, or ``None`` where it has none that is safe."""
    if type(channel) is not Channel or not getattr(channel, "supports_batch_publish", False):
        return None

    create: Any = getattr(channel, "create_publish_batch", None)
    return None if create is None else create(max_size=max_size)


def batching(producer: Any, max_size: int) -> AbstractContextManager[object]:
    """Return a block in which what ``producer`` publishes shares round trips, where kombu can do that."""
    batch: Callable[..., AbstractContextManager[object]] | None = getattr(producer, "batch", None)
    return nullcontext() if batch is None else batch(max_size=max_size)


def _found(home: type, name: str) -> object:
    return next((vars(kind)[name] for kind in home.__mro__ if name in vars(kind)), None)


def _is_from(function: object, module: str) -> bool:
    # A decorated function may claim another's name, but not its globals.
    return type(function) is FunctionType and function.__globals__["__name__"] == module


def _above(kind: type) -> set[str]:
    return {name for base in kind.__mro__[: kind.__mro__.index(Celery)] for name in vars(base)}
