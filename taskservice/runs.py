"""Runs: the states a submission goes through, the handle on it, and what happened to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from os import urandom
from typing import Any, Protocol

__all__ = [
    "RunEvent",
    "RunEventKind",
    "RunListener",
    "RunWatcher",
    "TaskHandle",
    "TaskState",
    "new_run_id",
]


class TaskState(StrEnum):
    """Where a run stands, in Celery's words."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"

    @property
    def final(self) -> bool:
        """Whether the run is over."""
        return self in _FINAL


_FINAL = frozenset({TaskState.SUCCESS, TaskState.FAILURE, TaskState.REVOKED})


class TaskHandle(Protocol):
    """One run, seen from outside. A handle holds no connection and no thread, and may be dropped.

    All methods may be called at any time, from any number of tasks at once, as long as the service
    that gave the handle is open.
    """

    @property
    def id(self) -> str:
        """The run's id, a UUID; Celery's task id where Celery runs it."""

    async def status(self) -> TaskState:
        """Return the state now.

        PENDING means waiting to start; where Celery stores results it is also the state of an id
        nobody knows, and of a run whose result has expired.
        """

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the run to end and return its value; ``timeout`` is in seconds.

        A failed run raises its own exception; where another process ran it, with the remote
        traceback as its cause, or as `RunFailedError` if the type cannot be rebuilt here. A
        cancelled run raises `RunCancelledError`. Too late raises `ResultTimeoutError`, and the run
        goes on. Giving up, or being cancelled while waiting, never touches the run.
        """

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        """Have ``watcher`` called once, when the run is over; at once if it is over already.

        It is called in the event loop from which this is called, gets ``None``, or the error for
        which nobody will ever know the run's end, and must neither block nor raise. What is
        returned takes it back. A watcher costs no thread and no task.
        """

    async def exception(self) -> BaseException | None:
        """Return what `result` would raise; ``None`` if the run succeeded or is not over."""

    async def ready(self) -> bool:
        """Return whether the run is over, however it ended."""

    async def cancel(self, *, terminate: bool = False) -> bool:
        """Stop the run if it can be stopped, and return whether it was.

        True means it ended as REVOKED: it never started, was waiting to be retried, or was an
        ``async`` function that left at an await. One that shields itself, or cleans up, is waited for,
        on a worker for a minute. With ``terminate`` a worker's pool of processes also ends the process
        that runs a plain function, wherever that is just then. False means that the run was over, or
        that nothing may stop it: a plain function in a thread goes on to its end. The log says why.
        """

    async def attempts(self) -> int:
        """Return how often the function has been started: 0 before the first time."""


class RunEventKind(StrEnum):
    """What happened to a run."""

    SENT = "sent"
    STARTED = "started"
    RETRIED = "retried"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvent:
    """One thing that happened to a run.

    ``at`` is in seconds since the epoch. ``attempt`` counts from 1, and is 0 before the first.
    ``detail`` is the error's ``repr``, or the seconds until the next attempt, or empty.
    """

    kind: RunEventKind
    at: float
    run: str
    task: str
    attempt: int = 0
    detail: str = ""


RunListener = Callable[[RunEvent], object]
"""Called in the event loop, at once and in order; it must not block, and its errors are logged."""

RunWatcher = Callable[[Exception | None], object]
"""See `TaskHandle.watch`."""


def new_run_id() -> str:
    """Return a random UUID, version 4, as `uuid.uuid4` makes it, without the object around it."""
    digits = urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
