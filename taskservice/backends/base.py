"""The contract of a back end, and what one says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

from taskservice.submission import AT_ONCE, LaunchOptions

if TYPE_CHECKING:
    from types import TracebackType

    from taskservice.backends.calls_many import Calls
    from taskservice.deadletters import DeadLetters
    from taskservice.health import QueueHealth, WorkerHealth
    from taskservice.runs import TaskHandle

__all__ = ["BackendCapability", "BackendHealth", "TaskBackend", "TaskFunction"]

TaskFunction = Callable[..., Any]
"""A `TaskDefinition`, a Celery task, or a function, plain or ``async``."""


class BackendCapability(StrEnum):
    """What a back end can do truthfully; what it lacks it does not pretend."""

    BACKGROUND = "background"
    """``launch_task`` returns before the run ends."""
    COUNTDOWN = "countdown"
    """A countdown, an eta and the wait between attempts really pass."""
    EXPIRES = "expires"
    """A run that has not started in time ends as REVOKED."""
    PRIORITIES = "priorities"
    """A priority decides who goes first; without it a priority is checked and has no effect."""
    QUEUES = "queues"
    """A queue decides who runs it; without it a queue is checked and has no effect."""
    CANCEL_WAITING = "cancel_waiting"
    """A run that has not started, or waits to be retried, can be cancelled."""
    CANCEL_RUNNING = "cancel_running"
    """A running ``async`` function can be cancelled."""
    TERMINATE = "terminate"
    """The process of a running plain function can be ended, if the worker has a pool of processes."""
    DURABLE = "durable"
    """A run outlives the process that launched it."""
    KNOWS_RUNS = "knows_runs"
    """An unknown id is told from a waiting one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendHealth:
    """Whether a back end could run something now, and in one line why.

    ``workers`` are those that beat, in process the one that is this process; ``queues`` are the
    broker's.
    """

    healthy: bool
    detail: str
    workers: tuple[WorkerHealth, ...] = ()
    queues: tuple[QueueHealth, ...] = ()


class TaskBackend(Protocol):
    """Runs tasks. Open it with ``async with``, on asyncio or trio; it never blocks the event loop.

    Arguments and results are JSON, checked the same way everywhere: see `taskservice.payloads`.
    """

    @property
    def name(self) -> str:
        """``anyio`` or ``celery``."""

    @property
    def capabilities(self) -> frozenset[BackendCapability]:
        """What this one can do."""

    @property
    def dead_letters(self) -> DeadLetters:
        """The runs that failed for good; `ConfigurationError` where there is no place to keep them."""

    async def launch_task(
        self,
        func: TaskFunction,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: LaunchOptions = AT_ONCE,
    ) -> TaskHandle:
        """Start a run of ``func``, when and where ``options`` say.

        Returns as soon as the run is accepted. Raises `LaunchOptionError` for an option that this
        back end or its broker cannot honour, `PayloadError` for an argument that is not
        JSON, `TypeError` for arguments that the function does not take, `TaskNotRegisteredError`
        for a function that a worker could not find, `BackendUnavailableError` if the broker does
        not answer, and `ServiceClosedError` outside ``async with``.
        """

    async def launch_many(
        self, func: TaskFunction, calls: Calls, *, per_message: int = 1
    ) -> list[TaskHandle]:
        """Start a run of ``func`` for each of ``calls``; the handles come in their order.

        A call is a `Call` or a tuple of positional arguments. All are checked before any is sent;
        errors are those of `launch_task`, and those about arguments name the call's index.
        `BackendUnavailableError` leaves open which of them were sent, as a lost connection does;
        none is sent twice.

        On a Redis broker hundreds of messages share a round trip. ``per_message`` calls share a
        message: each is a run of its own, with its own id, status, result, error and retry, but they
        run one after another in one worker slot, are delivered again together, cannot be cancelled
        before they run, and are not seen as STARTED. A result may come up to 50 milliseconds and one
        call later than it would. It is for many short calls; `ConfigurationError` for a task with
        a time or rate limit, which Celery keeps per message. Where there are no messages, in process
        and in an eager app, it has no effect.
        """

    async def get_task(self, task_id: str) -> TaskHandle:
        """Return the handle of an earlier run.

        `RunNotFoundError` for an unknown id, where the back end can know (`KNOWS_RUNS`); elsewhere
        the handle's status is PENDING.
        """

    async def health(self) -> BackendHealth:
        """Return how it is, within one second; never raises for an unreachable service.

        It is not healthy while nobody would run anything: no broker, no worker, or no pool that lives.
        """

    async def close(self) -> None:
        """End it: nothing new is accepted, in-process runs get their grace and are then cancelled.

        May be called more than once. Leaving ``async with`` calls it.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
