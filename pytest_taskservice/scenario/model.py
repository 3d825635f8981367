"""What a scenario file says, as frozen values.

No reading, no running: ``load`` builds these, ``story`` and ``needs`` reason about them, ``engine``
plays them. Every duration and instant is a float of seconds; instants count from the start of the
story.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.scenario.behaviour import Behaviour

__all__ = [
    "FINAL_STATUSES",
    "REASONS",
    "STATUSES",
    "Config",
    "Expectation",
    "Launch",
    "Mark",
    "Property",
    "Revoke",
    "Scenario",
    "Skip",
    "Step",
    "Task",
    "Wait",
]

STATUSES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED")
FINAL_STATUSES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "REJECTED"})
REASONS = ("soft_time_limit", "hard_time_limit", "error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in a scenario file; lines and columns count from 1."""

    path: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


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
class Config:
    """What is sent along with every launch."""

    task_soft_time_limit: float | None = None
    task_time_limit: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Submit ``task`` ``count`` times; ``name`` (the file's ``as``) captures the runs.

    Of the two instants of every step, ``at`` counts from the start and wins; else ``after`` counts
    from the end of the step before.
    """

    mark: Mark
    task: str
    at: float | None = None
    after: float = 0.0
    count: int = 1
    countdown: float | None = None
    expires: float | None = None
    name: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Let time pass, or wait until captured runs have ended, ``within`` a bound."""

    mark: Mark
    at: float | None = None
    after: float = 0.0
    duration: float | None = None
    runs: tuple[str, ...] = ()
    within: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Revoke:
    """Withdraw the runs captured under ``name``."""

    mark: Mark
    name: str
    at: float | None = None
    after: float = 0.0


Step: TypeAlias = Launch | Wait | Revoke


class Property(StrEnum):
    """When an expectation has to hold."""

    EVENTUALLY = "eventually"
    AT = "at"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What must be true of every run captured as ``of``.

    ``instant`` is the bound of ``eventually`` and the moment of ``at``. ``wanted`` holds the
    matchers that the file names (``status``, ``result``, ``error``, ``reason``, ``attempts``,
    ``events``) and no others.
    """

    mark: Mark
    property: Property
    of: str
    wanted: Mapping[str, Any]
    instant: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """Why a scenario is not played in a world."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One document with one row of its parameters: one test in each world.

    ``case`` is made from the row and tells the tests of one document apart; empty without
    parameters. ``worlds`` holds what ``overrides`` make of this scenario, already merged and
    checked.
    """

    mark: Mark
    name: str
    case: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    config: Config = field(default_factory=Config)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    expect: tuple[Expectation, ...] = ()
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
