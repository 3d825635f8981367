"""What a scenario file says, as frozen values.

No reading, no running: ``load`` builds these, ``story`` and ``needs`` reason about them, ``engine``
plays them. What happens in a scenario, its steps, is in ``acts``. Every duration and instant is a float
of seconds; instants count from the start of the story.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.scenario.acts import FaultCall, Mark, Step
    from pytest_taskservice.scenario.behaviour import Behaviour

__all__ = [
    "FINAL_STATUSES",
    "INVARIANTS",
    "REASONS",
    "STATUSES",
    "WORKFLOW_REASONS",
    "WORKFLOW_STATUSES",
    "Canvas",
    "Config",
    "Entry",
    "Expectation",
    "Nemesis",
    "Property",
    "Scenario",
    "Skip",
    "Task",
    "Workers",
    "Workflow",
    "WorkflowStep",
]

STATUSES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED")
FINAL_STATUSES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "REJECTED"})
REASONS = ("soft_time_limit", "hard_time_limit", "worker_lost", "error")
WORKFLOW_STATUSES = ("WAITING", "RUNNING", "INPUT", "INPUT_OVER", "SUCCESS", "FAILED")
WORKFLOW_REASONS = (
    "busy",
    "stale",
    "input_timeout",
    "stopped",
    "expired",
    "max_steps",
    "changed",
    "unknown_workflow",
    "error",
)
INVARIANTS: Mapping[str, str] = {
    "one_final_state": "every accepted run reaches exactly one final state",
    "nothing_unsent": "nothing appears that was not sent",
    "state_machine": "statuses only move along the state machine",
    "final_is_final": "final is final",
    "slots": "no more runs than slots, and no run waits without a reason",
    "client_stream": "a client sees no gap and no duplicate",
    "one_truth": "the stored state is the fold of the events",
    "timers": "timers are never early",
    "keys_return": "keys go back to where they were",
}
"""What holds in every scenario unless switched off, by the name that switches it off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task of the story: synthetic (``behaviour``) or of the app (``call``, a dotted path)."""

    name: str
    mark: Mark
    behaviour: Behaviour | None = None
    call: str | None = None
    queue: str | None = None
    priority: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """Tasks that are launched as one: ``kind`` is ``chain``, ``group`` or ``chord``; ``body`` ends a chord.

    What a launch captures is the run that ends it: the last of a chain, the body of a chord, every run of a
    group. ``<name>.members`` captures the other ones, in their order.
    """

    name: str
    mark: Mark
    kind: str
    members: tuple[str, ...]
    body: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkflowStep:
    """One step of a synthetic workflow.

    ``kind`` is ``run`` (``seconds`` of work), ``ask`` (``text`` is the prompt, ``seconds`` its timeout if
    more than none), ``emit`` (``value``), ``fail`` (``text``) or ``return`` (``value``).
    """

    kind: str
    seconds: float = 0.0
    text: str = ""
    value: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Workflow:
    """A workflow of the story: synthetic (``steps``) or of the app (``call``, a dotted path)."""

    name: str
    mark: Mark
    steps: tuple[WorkflowStep, ...] = ()
    call: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Settings of the story.

    The limits are sent along with every launch. The next four are of workflow runs: their deadlines, and
    ``data_ttl``, how long the data of one is kept after its last news. ``celery`` holds settings of Celery
    by their names. ``start`` is the first instant in ISO 8601, where time is virtual; empty leaves it to
    the world. ``broker`` is whose semantics messages have, ``redis`` or ``amqp``; empty as well.
    """

    task_soft_time_limit: float | None = None
    task_time_limit: float | None = None
    busy_after: float | None = None
    input_timeout: float | None = None
    stale_after: float | None = None
    data_ttl: float | None = None
    start: str = ""
    broker: str = ""
    celery: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """``count`` workers, each with ``concurrency`` slots, that consume ``queues`` (empty: all)."""

    count: int = 1
    concurrency: int = 2
    pool: str | None = None
    queues: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of the beat: it launches ``task`` ``every`` so many seconds, or by ``cron``."""

    name: str
    mark: Mark
    task: str
    every: float | None = None
    cron: str | None = None
    timezone: str = "UTC"


@dataclass(frozen=True, kw_only=True, slots=True)
class Nemesis:
    """Faults that the seed draws: one of ``kinds`` ``every`` (from, to) seconds, ``until`` an instant."""

    mark: Mark
    kinds: tuple[FaultCall, ...]
    every: tuple[float, float]
    until: float
    limit: int | None = None


class Property(StrEnum):
    """When an expectation has to hold."""

    EVENTUALLY = "eventually"
    AT = "at"
    ALWAYS = "always"
    NEVER = "never"
    SOMETIMES = "sometimes"
    """In at least one of all seeds; judged when all have been played."""
    ORDER = "order"
    """Of each of ``targets`` the first ``event`` comes before that of the next one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What must be true of everything captured as ``of``, or of ``workers``.

    ``instant`` is the bound of ``eventually`` and the moment of ``at``. ``wanted`` holds the matchers that
    the file names and no others: ``status``, ``result``, ``error``, ``reason``, ``attempts``, ``events``,
    ``deliveries``, ``starts``, ``runs`` (how many were captured) of runs; ``taken`` and ``error`` of a
    command; ``events`` of a client; ``stored_keys`` of a workflow run; ``all_occupied``, ``running``,
    ``alive`` of ``workers``; ``struck`` (how often) of a fault. ``targets`` is for ``order`` alone, where
    ``wanted`` holds ``event``.
    """

    mark: Mark
    property: Property
    of: str
    wanted: Mapping[str, Any]
    instant: float | None = None
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """Why a scenario is not played in a world."""

    reason: str


Seeds: TypeAlias = tuple[int, ...]
"""The seeds that a file asks for; empty leaves them to the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One document with one row of its parameters: one test in each world.

    ``case`` is made from the row and tells the tests of one document apart; empty without
    parameters. ``worlds`` holds what ``overrides`` make of this scenario, already merged and
    checked. ``unchecked`` names the invariants that are switched off.
    """

    mark: Mark
    name: str
    case: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    seeds: Seeds = ()
    config: Config = field(default_factory=Config)
    workers: Workers | None = None
    tasks: Mapping[str, Task] = field(default_factory=dict)
    canvases: Mapping[str, Canvas] = field(default_factory=dict)
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    beat: Mapping[str, Entry] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    faults: Nemesis | None = None
    expect: tuple[Expectation, ...] = ()
    unchecked: frozenset[str] = frozenset()
    cleanup: tuple[Step, ...] = ()
    worlds: Mapping[str, Scenario | Skip] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name with the case, as test ids show it."""
        return f"{self.name}[{self.case}]" if self.case else self.name

    def for_backend(self, backend: str) -> Scenario | Skip:
        """Return this scenario as ``backend`` plays it, or why it does not."""
        world = self.worlds.get(backend, self)
        if isinstance(world, Skip):
            return world

        if backend not in self.backends:
            return Skip(reason=f"not meant for {backend}; backends: {', '.join(self.backends)}")
        return world
