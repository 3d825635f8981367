"""The contract of a driver: the harness's control over one world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.errors import HarnessError

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.history import EventLog
    from taskservice import BlockingTaskService
    from taskservice.backends.base import TaskBackend

__all__ = ["Capability", "CapabilityError", "Driver", "Outcome", "TaskCall", "WorldDriver"]


class Capability(StrEnum):
    """What a world may be able to show; the value is the word users read in a skip reason."""

    CELERY_MESSAGES = "celery messages"
    CONCURRENCY = "concurrency"
    BACKOFF = "back-off"
    ETA = "eta"
    EXPIRES = "expires"
    TIME_LIMITS = "time limits"
    REVOKE = "revoke"
    PRIORITIES = "priorities"
    PROCESSES = "processes"
    CLOCK = "virtual time"


class CapabilityError(HarnessError, RuntimeError):
    """A world was asked for something it cannot show truthfully; the plugin makes it a skip."""

    def __init__(self, driver: str, capability: str, reason: str) -> None:
        super().__init__(driver, capability, reason)
        self.driver = driver
        self.capability = capability
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.driver} cannot: {self.capability} ({self.reason})"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCall:
    """One submission.

    ``task`` is a registered task name or the dotted path of a task of the app; ``label`` is the
    name the history shows instead. Durations are seconds.
    """

    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    countdown: float | None = None
    expires: float | None = None
    queue: str | None = None
    priority: int | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Where a run stands. ``status`` is one of Celery's state names.

    ``error`` is the class name of the exception and ``message`` its text; both empty unless it
    failed.
    """

    status: str
    result: Any = None
    error: str = ""
    message: str = ""
    attempts: int = 1


class Driver(Protocol):
    """Control over one world, for one test at a time.

    Every method is blocking and bounded. What the world cannot show truthfully is missing from
    ``capabilities``, ``cannot`` gives the reason, and ``launch`` raises :class:`CapabilityError`
    when a call needs it.
    """

    name: str
    capabilities: frozenset[Capability]

    def cannot(self, capability: Capability) -> str | None:
        """Return why this world cannot show ``capability``; ``None`` if it can."""

    def launch(self, call: TaskCall) -> str:
        """Submit one run and return its id; it may not have started yet."""

    def outcome(self, run_id: str) -> Outcome:
        """Return where the run stands now, without waiting."""

    def revoke(self, run_id: str) -> None:
        """Withdraw a run that has not started."""

    def settle(self, *, timeout: float) -> None:
        """Wait until no run of this test is waiting, running or due.

        Raise :class:`HarnessTimeoutError`, naming the unfinished runs, after ``timeout`` seconds.
        """

    def log(self) -> EventLog:
        """Return what has happened since the last ``reset``."""

    def reset(self) -> None:
        """Forget this test: no message, run, result or event of it is left."""

    def close(self) -> None:
        """Leave the world; may be called twice."""


class WorldDriver(Driver, Protocol):
    """A driver as the plugin holds it: opened once, lent to one test after the other."""

    refused: list[CapabilityError]
    """What the current test asked for in vain; its result proves nothing, whatever it says."""

    def begin(
        self,
        app: Celery | None,
        settings: Mapping[str, Any],
        *,
        real_time: bool = False,
        loops: bool = False,
    ) -> None:
        """Point ``app`` at this world for one test, with the test's own ``settings``.

        A world of Celery needs an app. ``real_time`` has a world with a clock of its own do without;
        ``loops`` says that the test runs in an event loop.
        """

    def clock(self) -> Clock:
        """Return the test's clock. Raise :class:`CapabilityError` where time cannot be moved."""

    def task_backend(self) -> TaskBackend:
        """Return a new task service backend over this world, for an async test."""

    def blocking_service(self) -> BlockingTaskService:
        """Return a new task service over this world, for a test without an event loop."""

    def describe(self) -> str:
        """Return what the header says of this world."""

    def report(self) -> dict[str, str]:
        """Return the texts to attach to a failing test, by title."""
