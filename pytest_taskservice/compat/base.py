"""The contract of a world that serves Celery's own fixtures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["CompatWorker", "CompatWorld", "WorkerRequest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRequest:
    """What ``celery.contrib.testing.worker.start_worker`` was asked for.

    ``pool`` is a name or a class. ``shutdown_timeout`` is how long running tasks may take to end, in seconds.
    ``options`` is all else that Celery's ``WorkController`` would be given.
    """

    hostname: str
    pool: Any = "solo"
    concurrency: int = 1
    loglevel: str | int = "error"
    shutdown_timeout: float = 10.0
    options: Mapping[str, Any] = field(default_factory=dict)


class CompatWorker(Protocol):
    """What ``celery_worker`` and its like yield: the part of ``TestWorkController`` that every world has.

    Whatever else is asked of it is an error that says why this world has none.
    """

    app: Celery
    hostname: str

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Have the worker know the tasks that the app has by now."""

    def ensure_started(self) -> None:
        """Return once the worker consumes."""


class CompatWorld(Protocol):
    """One world for a session of tests that use Celery's fixtures.

    ``begin_test`` and ``end_test`` stand around the whole of every test that has to do with this world, the
    set-up and teardown of its fixtures included: one that asks for it, or finds something open. A test that
    comes to it unforeseen is begun where it does. Apps and workers of session fixtures are opened within the
    first test that needs them and closed after the last: a world that starts anew for every test re-opens,
    in ``begin_test``, what is still open.
    """

    name: str

    def open(self, app: Celery) -> AbstractContextManager[None]:
        """Point ``app`` at this world until the context is left. No worker serves it yet."""

    def start_worker(self, app: Celery, request: WorkerRequest) -> CompatWorker:
        """Return a worker that serves ``app``, which is open, and consumes."""

    def stop_worker(self, worker: CompatWorker) -> None:
        """Let running tasks end, give back what has not started, and end the worker.

        Raise ``RuntimeError``, as Celery does, if they do not end within ``shutdown_timeout``.
        """

    def lasting(self) -> bool:
        """Return whether an app or a worker is open that every test may use."""

    def begin_test(self, name: str, *, late: bool) -> None:
        """Make ready for the test ``name``; ``late`` says that its body has begun."""

    def end_test(self) -> None:
        """Forget the test."""

    def report(self) -> dict[str, str]:
        """Return the texts to attach to a failing test, by title."""

    def describe(self) -> str:
        """Return what the summary says of this world."""

    def close(self) -> None:
        """Leave nothing behind; may be called twice."""
