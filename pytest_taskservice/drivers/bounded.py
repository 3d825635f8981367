"""Waits for results that a test does not bound: they end where real workers can bring nothing any more.

``get()`` without a timeout waits for ever for a task that was lost, or sent where nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.errors import HarnessTimeoutError
from pytest_taskservice.simulator.substitutes import Patches

if TYPE_CHECKING:
    from pytest_taskservice.drivers.worker_fleet import Look

__all__ = ["Workers", "bounded_waits"]

_AGAIN = 0.5
"""Seconds between two looks at idle workers: a chain hands on by ways that take time."""
_PATIENCE = 10
"""So many times as long as for idle workers is waited for busy ones to which nothing happens."""


class Workers(Protocol):
    """The real workers of a world, as somebody sees them who waits."""

    def look(self) -> Look:
        """Return how they stand."""

    def held(self) -> str:
        """Return what they have, in words; empty if that is nothing."""

    def serve(self, app: Any) -> bool:
        """Return whether ``app`` is one of theirs."""


@contextmanager
def bounded_waits(workers: Workers, *, timeout: float) -> Iterator[None]:
    """Raise :class:`HarnessTimeoutError` where a result has not come and ``workers`` were at rest.

    They are looked at every ``timeout`` seconds.
    """
    from celery.result import AsyncResult, ResultSet

    patches = Patches()
    for kind, names in ((AsyncResult, ("get", "wait")), (ResultSet, ("join_native",))):
        for name in names:
            patches.set(kind, name, _bounded(getattr(kind, name), workers, timeout))
    try:
        yield
    finally:
        patches.undo()


def _bounded(wait: Callable[..., Any], workers: Workers, bound: float) -> Callable[..., Any]:
    @wraps(wait)
    def wait_bounded(result: Any, timeout: Any = None, *args: Any, **options: Any) -> Any:
        from celery.exceptions import TimeoutError as WaitedError

        if timeout is not None:
            return wait(result, timeout, *args, **options)
        if len(args) > 2:
            args = (*args[:2], _once(args[2]), *args[3:])
        elif "callback" in options:
            options["callback"] = _once(options["callback"])
        waited, seen, left = 0.0, None, _PATIENCE
        pause = bound
        while True:
            try:
                return wait(result, pause, *args, **options)
            except WaitedError:
                # It has come just now, or this is what the task itself has raised.
                if result.ready():
                    return wait(result, None, *args, **options)
            waited += pause
            now = workers.look()
            left = left - 1 if now.seen == seen else _PATIENCE
            if now.seen == seen and (now.idle or left <= 0):
                raise HarnessTimeoutError(_told(result, waited, workers)) from None
            seen = now.seen
            pause = _AGAIN if now.idle else bound

    return wait_bounded


def _once(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Return a callback that hears of each result once, though it is waited for again and again."""
    if callback is None:
        return None
    told: set[str] = set()

    def call(task_id: str, value: Any) -> Any:
        if task_id not in told:
            told.add(task_id)
            return callback(task_id, value)
        return value

    return call


def _told(result: Any, waited: float, workers: Workers) -> str:
    app = getattr(result, "app", None)
    run = str(getattr(result, "id", "") or "a group")
    if app is not None and not workers.serve(app):
        why = f"They do not serve its app, {app.main or 'which has no name'}"
    else:
        why = "It was lost, or sent where none of them listens"
    return (
        f"waited {waited:g} s, without a timeout, for the result of {run}, and nothing has happened in the "
        f"workers meanwhile: {workers.held() or 'they are idle'}. {why}"
    )
