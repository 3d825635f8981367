"""Publishing a Celery run without subscribing to its result.

``app.send_task`` has the result backend subscribe for every run it publishes, a round trip each,
though our own listener awaits results, and ``group.apply_async`` has it wait for each member. Two
places of Celery are leaned on, each with a self-check: ``RedisBackend.on_task_call``
(celery/backends/redis.py) and ``AsyncBackendMixin.add_pending_result`` (celery/backends/asynchronous.py),
replaced on the instance by what does nothing while a run of ours is published in this context.
Celery's own ``delay().get()`` is untouched.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from time import time
from typing import TYPE_CHECKING, Any, Final

from celery.backends.redis import RedisBackend
from kombu import Producer

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from celery import Celery, Task

    from taskservice.submission import LaunchPlan

__all__ = ["keep_expired", "publish", "publishing_time", "quiet_results"]

# What is not given is left to the task's own options and the app's defaults.
_SENT: Final = ("eta", "expires", "priority", "queue")

_publishing: ContextVar[bool] = ContextVar("_publishing", default=False)


def publish(  # noqa: PLR0913 - one message, and all of it
    app: Celery,
    task: Task[..., Any],
    run_id: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    plan: LaunchPlan,
) -> Any:
    """Send one message and return Celery's result object; it blocks for about a round trip."""
    options = {name: value for name in _SENT if (value := getattr(plan, name)) is not None}
    # An eager run has no message.
    timed = {} if app.conf.task_always_eager else publishing_time()
    with quiet_results(app):
        if plan.expires is None:
            return task.apply_async(tuple(args), dict(kwargs), task_id=run_id, **options, **timed)

        with app.producer_or_acquire() as producer:
            options["producer"] = keep_expired(producer)
            return task.apply_async(tuple(args), dict(kwargs), task_id=run_id, **options, **timed)


def keep_expired(producer: Any) -> Any:
    """Return a producer like this one whose messages no broker drops when they expire.

    RabbitMQ does so without a word, and nobody would ever store that their runs were revoked; the worker
    that gets such a message does.
    """
    connection = producer.connection
    return _Keeping(connection) if connection.transport.driver_type == "amqp" else producer


class _Keeping(Producer):
    def publish(self, body: Any, **options: Any) -> Any:  # type: ignore[override] # kombu's are many
        options.pop("expiration", None)
        return super().publish(body, **options)


def publishing_time() -> dict[str, Any]:
    """Return the option of ``apply_async`` that makes now the message's AMQP property ``timestamp``.

    In whole seconds since the epoch, as py-amqp writes it and kombu's other transports keep it.
    """
    return {"timestamp": int(time())}


@contextmanager
def quiet_results(app: Celery) -> Iterator[None]:
    """Have nothing that is published in here subscribe for its result."""
    # Celery has a result backend per thread, so this one may be new.
    if isinstance(app.backend, RedisBackend):
        _quieten(app.backend)
    token = _publishing.set(True)
    try:
        yield
    finally:
        _publishing.reset(token)


def _quieten(backend: Any) -> None:
    if "on_task_call" in vars(backend):
        return

    backend.on_task_call = _unless_publishing(backend, "on_task_call")
    backend.add_pending_result = _unless_publishing(backend, "add_pending_result")


def _unless_publishing(backend: Any, name: str) -> Callable[..., Any]:
    original = getattr(backend, name, None)
    if original is None:
        raise ConfigurationError(f"RedisBackend.{name} is gone; taskservice.backends.publishing must follow")

    def call(*args: Any, **kwargs: Any) -> Any:
        return None if _publishing.get() else original(*args, **kwargs)

    return call
