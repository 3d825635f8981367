"""The contract of a driver: the harness's control over one world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.errors import HarnessError

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.history import EventLog
    from pytest_taskservice.scenario.acts import FaultCall
    from pytest_taskservice.scenario.model import Config, Entry, Workers, Workflow
    from taskservice import BlockingTaskService
    from taskservice.backends.base import TaskBackend
    from taskservice.workflow.model import WorkflowEvent

__all__ = [
    "CanvasRuns",
    "Capability",
    "CapabilityError",
    "Driver",
    "FaultControl",
    "Injection",
    "Outcome",
    "Stage",
    "StoryDriver",
    "TaskCall",
    "WorkflowControl",
    "WorkflowOutcome",
    "WorldDriver",
]


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
    CANVAS = "canvases"
    WORKERS = "workers of one's own"
    BEAT = "beat"
    WORKFLOWS = "workflows"
    PROCESS_FAULTS = "faults of processes"
    CONNECTION_FAULTS = "faults of connections"
    DELIVERY_FAULTS = "faults of deliveries"
    STRIKES = "faults at a point of a run"
    RACES = "races"
    SETTINGS = "settings of Celery"
    AMQP = "a broker like RabbitMQ"


class CapabilityError(HarnessError, RuntimeError):
    """A world was asked for something it cannot show truthfully; the plugin makes it a skip."""

    def __init__(self, driver: str, capability: str, reason: str) -> None:
        super().__init__(driver, capability, reason)
        self.driver = driver
        self.capability = capability
        self.reason = reason
        self.place = ""
        """Where in a file it was asked for, if it was."""

    def __str__(self) -> str:
        told = f"{self.driver} cannot: {self.capability} ({self.reason})"
        return f"{self.place}: {told}" if self.place else told


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CanvasRuns:
    """The runs of one canvas: ``ends`` are those whose end is its end, ``members`` the others, in order."""

    ends: tuple[str, ...]
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkflowOutcome:
    """Where a workflow run stands.

    ``status`` is one of `WorkflowStatus`, ``reason`` a `FailureReason` or empty. ``error`` is the class
    name of what its function raised and ``message`` its text, empty unless it did; ``question`` is the id
    of what it asks, empty unless it does.
    """

    status: str
    reason: str = ""
    result: Any = None
    error: str = ""
    message: str = ""
    question: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What a story needs of its world before its first step.

    ``seed`` draws what the file leaves open: which worker a fault strikes, the order of a race.
    """

    workers: Workers | None = None
    config: Config | None = None
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    beat: Mapping[str, Entry] = field(default_factory=dict)
    tasks: Mapping[str, TaskCall] = field(default_factory=dict)
    faults: frozenset[str] = frozenset()
    """The kinds of faults that may be injected, so that what they need is there from the start."""
    seed: int = 0


class Injection(Protocol):
    """A fault that was injected."""

    @property
    def struck(self) -> int:
        """How often it has struck."""

    @property
    def struck_at(self) -> tuple[float, ...]:
        """When it has struck, each time, in the log's clock."""

    def heal(self) -> None:
        """End it; may be called twice."""


class FaultControl(Protocol):
    """Breaking a world on purpose. What it breaks and heals is told in the history, as events of no run."""

    def inject(self, call: FaultCall) -> Injection:
        """Begin one fault. Raise :class:`CapabilityError` for what the world cannot break."""

    def heal(self) -> None:
        """End all faults, and return when every process they ended is up again."""


class WorkflowControl(Protocol):
    """Workflow runs in a world. Their events are in the history, told while they happened.

    Commands raise the runtime's own errors (`WorkflowError` and its leaves, each with a ``code``).
    """

    def start(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Start a workflow of the stage and return its run's id."""

    def answer(self, run_id: str, value: Any, *, question: str | None = None) -> None:
        """Answer the open question, or the one with the id ``question``."""

    def resume(self, run_id: str) -> None:
        """Send one more message that has a worker take the run up; it does nothing where none is due."""

    def stop(self, run_id: str) -> None:
        """End the run at once."""

    def outcome(self, run_id: str) -> WorkflowOutcome | None:
        """Return where the run stands; ``None`` when its data is gone."""

    def events(self, run_id: str, *, after: int = 0) -> list[WorkflowEvent]:
        """Return what a client that reads on after event ``after`` is told by now."""

    def stored_keys(self, run_id: str) -> int:
        """Return how many keys the store holds for the run."""


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


class StoryDriver(WorldDriver, Protocol):
    """A driver as a scenario uses it; every world's driver is one."""

    def set_stage(self, stage: Stage) -> None:
        """Say before ``begin`` what the next story needs; a test that is no story has no stage."""

    def launch_canvas(self, kind: str, members: tuple[TaskCall, ...], body: TaskCall | None) -> CanvasRuns:
        """Submit a ``chain``, a ``group`` or a ``chord`` of calls and return its runs."""

    def workflows(self) -> WorkflowControl:
        """Return control over workflow runs; :class:`CapabilityError` where there are none."""

    def faults(self) -> FaultControl:
        """Return control over faults; :class:`CapabilityError` where nothing can be broken."""

    def at_once(self, acts: Sequence[Callable[[], None]]) -> None:
        """Do all of ``acts`` at once, in an order that the seed draws or that really races; none raises."""
