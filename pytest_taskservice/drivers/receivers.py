"""Hearing which of Celery's signals a test listens to, in worlds that do not send them to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

__all__ = ["OF_MESSAGES", "OF_TASKS", "OF_WORKERS", "receivers_heard"]

OF_TASKS = (
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_retry",
    "task_success",
)
"""Sent where a task's body runs."""
OF_MESSAGES = ("after_task_publish", "before_task_publish", "task_sent")
"""Sent where a task is sent."""
OF_WORKERS = (
    "beat_embedded_init",
    "beat_init",
    "celeryd_after_setup",
    "celeryd_init",
    "heartbeat_sent",
    "task_received",
    "task_rejected",
    "task_revoked",
    "task_unknown",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
)
"""Sent by a worker, a beat or a pool's process."""


@contextmanager
def receivers_heard(names: Iterable[str], tell: Callable[[str], None]) -> Iterator[None]:
    """Tell the name of each of these signals that somebody connects a receiver to meanwhile."""
    from celery import signals

    connected: list[Any] = []
    for name in names:
        signal: Any = getattr(signals, name, None)
        if signal is not None:
            _hear(signal, name, tell)
            connected.append(signal)
    try:
        yield
    finally:
        for signal in connected:
            signal.__dict__.pop("connect", None)


def _hear(signal: Any, name: str, tell: Callable[[str], None]) -> None:
    connect = signal.connect

    @wraps(connect)
    def heard(*args: Any, **options: Any) -> Any:
        tell(name)
        return connect(*args, **options)

    signal.connect = heard
