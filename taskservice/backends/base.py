"""The contract of a back end, and what one says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from taskservice.submission import AT_ONCE, LaunchOptions

if TYPE_CHECKING:
    from types import TracebackType

    from celery import Signature as CelerySignature

    from taskservice.backends.calls_many import Calls
    from taskservice.backends.canvas.handle import CanvasHandle
    from taskservice.canvas import Canvas
    from taskservice.deadletters import DeadLetters
    from taskservice.health import QueueHealth, WorkerHealth
    from taskservice.runs import TaskHandle

__all__ = ["AnyCanvas", "BackendCapability", "BackendHealth", "TaskBackend", "TaskFunction"]

TaskFunction = Callable[..., Any]
"""A `TaskDefinition`, a Celery task, or a function, plain or ``async``."""

AnyCanvas: TypeAlias = "Canvas | CelerySignature[Any]"
"""A canvas of ours, or one of Celery's own."""


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

    async def launch_canvas(self, canvas: AnyCanvas) -> CanvasHandle:
        """Start the runs of ``canvas`` in the order that it says, and return the handle on all of them.

        - A chain runs its steps one after another; each gets the value of the one before in front of its
          arguments, unless it is immutable. Its value is that of the last. It fails as soon as a step
          fails, with that step's error, and the later ones never start.
        - A group runs its members side by side. Its value is the list of theirs, in order. It is over
          when all are, and if some failed it raises the error of the first of them, in order.
        - A chord is a group, and a body that gets the list of its values. If a run of the group failed,
          the body never runs, and the error is `ChordError`. A group that something follows in a
          chain is a chord.
        - A map is one run.

        Chains in chains and groups in groups are one; anything else may stand in anything. The value of
        a group is a list even if it has one member.

        Each run has its own id from the start and is found by `get_task`. One that never starts because
        another failed ends as FAILURE with the same error, and as REVOKED if that one was cancelled or
        expired, as the canvas does then. Where workers keep the states (`KNOWS_RUNS` is missing) it is
        the handle that knows, once it knows the end; what `get_task` says may be PENDING for ever.

        The handle is a `TaskHandle`. Its ``runs`` are the handles of all runs as they were written, its id
        is that of the last run, or a new one if that is a group. ``status`` is STARTED once any run has
        started, ``attempts`` counts those of all runs. ``cancel`` stops all runs that can be stopped and
        returns whether one was: then there will be no value.

        All arguments are checked before anything is sent: errors are those of `launch_task`, and name
        their place as ``chain[1].group[0]``. `ConfigurationError` is raised for a canvas that contains
        itself, is more than 16 levels deep or has more than 30 groups in a row, and for chords without a
        result store.

        A canvas of Celery's own means what it means there: on Celery it is sent as it is, links, stamps
        and all, and in process `ConfigurationError` is raised for what only a worker does.
        `BackendUnavailableError` leaves open which members of a group were sent.
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
