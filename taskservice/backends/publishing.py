"""Publishing a Celery run without subscribing to its result.

``app.send_task`` has the result backend subscribe for every run it publishes, a round trip each,
though our own listener awaits results. One place of Celery is leaned on, with a self-check:
``RedisBackend.on_task_call`` (celery/backends/redis.py), replaced on the instance by one that does
nothing while a run of ours is published in this context. Celery's own ``delay().get()`` is
untouched.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from celery.backends.redis import RedisBackend
from kombu import Producer

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery import Celery, Task

    from taskservice.submission import LaunchPlan

__all__ = ["keep_expired", "publish", "quiet_results"]

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
    with quiet_results(app):
        if plan.expires is None:
            return task.apply_async(tuple(args), dict(kwargs), task_id=run_id, **options)

        with app.producer_or_acquire() as producer:
            options["producer"] = keep_expired(producer)
            return task.apply_async(tuple(args), dict(kwargs), task_id=run_id, **options)


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

    original = getattr(backend, "on_task_call", None)
    if original is None:
        raise ConfigurationError(
            "RedisBackend.on_task_call is gone; taskservice.backends.publishing must follow"
        )

    def on_task_call(producer: Any, task_id: str) -> None:
        if not _publishing.get():
            original(producer, task_id)

    backend.on_task_call = on_task_call
