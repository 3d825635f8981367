"""What a scenario file says, as frozen values.

No reading, no running: ``load`` builds these, ``story`` and ``needs`` reason about them, ``engine``
plays them. Every duration and instant is a float of seconds; instants count from the start of the
story.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "EXCEPTIONS",
    "FINAL_STATUSES",
    "REASONS",
    "STATUSES",
    "SYNTHETIC",
    "Behaviour",
    "Config",
    "Expectation",
    "Launch",
    "Mark",
    "Property",
    "Retry",
    "Revoke",
    "Scenario",
    "Skip",
    "Step",
    "SyntheticError",
    "Task",
    "Wait",
]

SYNTHETIC = "taskservice.synthetic"

STATUSES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED")
FINAL_STATUSES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "REJECTED"})
REASONS = ("soft_time_limit", "hard_time_limit", "error")


class SyntheticError(Exception):
    """A synthetic task failed with a text that names no built-in exception."""


def _buildable(candidate: object) -> bool:
    """Tell whether ``candidate`` is an ordinary exception made from one text."""
    if not (isinstance(candidate, type) and issubclass(candidate, Exception)):
        return False

    # Inside a coroutine these two end it instead of failing it.
    if issubclass(candidate, StopIteration | StopAsyncIteration | Warning):
        return False

    try:
        candidate("")
    except TypeError:
        return False
    return True


EXCEPTIONS: Mapping[str, type[Exception]] = {
    found.__name__: found for found in vars(builtins).values() if _buildable(found)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in a scenario file; lines and columns count from 1."""

    path: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often a synthetic task is attempted, and how far apart.

    The wait after the first failed attempt is ``delay``; each later one is ``factor`` times the one
    before, at most ``max_delay``.
    """

    max_attempts: int
    delay: float = 0.0
    factor: float = 1.0
    max_delay: float = 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 1000:
            raise ValueError(f"need 1 <= max_attempts <= 1000, got {self.max_attempts}")

        if not 1 <= self.factor <= 1000:
            raise ValueError(f"need 1 <= factor <= 1000, got {self.factor}")

        if min(self.delay, self.max_delay) < 0:
            raise ValueError(f"need delays >= 0, got {self.delay} and {self.max_delay}")

    def delay_after(self, attempt: int) -> float | None:
        """Return the wait after failed ``attempt`` (1-based); ``None`` means give up."""
        if attempt >= self.max_attempts:
            return None

        delay = self.delay
        for _ in range(attempt - 1):
            # Stopping at the cap keeps factor**attempt from overflowing.
            if delay == 0 or delay >= self.max_delay:
                break
            delay *= self.factor
        return min(delay, self.max_delay)


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """What a synthetic task does at each attempt: it runs, then fails or returns.

    ``fails_with`` alone fails every attempt; ``fails_times`` only the first so many. ``retry``
    follows such a failure, never a time limit.
    """

    runs_for: float = 0.0
    returns: Any = None
    fails_with: str | None = None
    fails_times: int | None = None
    ignores_soft_limit: bool = False
    retry: Retry | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON data: the synthetic task's argument."""
        plain: dict[str, Any] = {
            "runs_for": self.runs_for,
            "returns": self.returns,
            "fails_with": self.fails_with,
            "fails_times": self.fails_times,
            "ignores_soft_limit": self.ignores_soft_limit,
        }
        said = {key: value for key, value in plain.items() if value not in (None, False)}
        # 0 and False are equal: both returned values must survive.
        if self.returns is not None:
            said["returns"] = self.returns
        if self.retry is not None:
            said["retry"] = {
                "max_attempts": self.retry.max_attempts,
                "delay": self.retry.delay,
                "factor": self.retry.factor,
                "max_delay": self.retry.max_delay,
            }
        return said

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Behaviour:
        """Rebuild what :meth:`to_json` gave."""
        retry = data.get("retry")
        return cls(**{**data, "retry": None if retry is None else Retry(**retry)})

    def failure(self, attempt: int) -> Exception | None:
        """Return what ``attempt`` (1-based) raises; ``None`` if it succeeds."""
        if self.fails_with is None and self.fails_times is None:
            return None

        if self.fails_times is not None and attempt > self.fails_times:
            return None

        text = self.fails_with or f"attempt {attempt} failed"
        name, _, message = text.partition(":")
        if name in EXCEPTIONS:
            return EXCEPTIONS[name](message.strip()) if message.strip() else EXCEPTIONS[name]()
        return SyntheticError(text)

    def retry_delay(self, attempt: int) -> float | None:
        """Return the wait between failed ``attempt`` and the next; ``None`` if there is no next."""
        return None if self.retry is None else self.retry.delay_after(attempt)


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
