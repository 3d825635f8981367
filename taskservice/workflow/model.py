"""Workflow runs: what is known of one, what it journals, what its clients see. Frozen values.

Instants are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from taskservice.errors import ConfigurationError

__all__ = [
    "DEFAULT_DEADLINES",
    "NO_MARK",
    "Deadlines",
    "EntryKind",
    "FailureReason",
    "JournalEntry",
    "Lease",
    "Question",
    "WorkflowEvent",
    "WorkflowRun",
    "WorkflowStatus",
]


class WorkflowStatus(StrEnum):
    """Where a workflow run stands."""

    WAITING = "WAITING"
    """Started, and no worker has taken it yet."""
    RUNNING = "RUNNING"
    INPUT = "INPUT"
    """It asked its user something; no worker, thread or memory is held."""
    INPUT_OVER = "INPUT_OVER"
    """It has its answer, and no worker has taken it up again yet."""
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"

    @property
    def final(self) -> bool:
        """Whether the run is over."""
        return self in _FINAL


_FINAL: Final = frozenset({WorkflowStatus.SUCCESS, WorkflowStatus.FAILED})


class FailureReason(StrEnum):
    """Why a run FAILED."""

    BUSY = "busy"
    """No worker took it in time."""
    STALE = "stale"
    """Nothing was heard of it for too long."""
    INPUT_TIMEOUT = "input_timeout"
    """Nobody answered in time."""
    STOPPED = "stopped"
    """Somebody stopped it."""
    EXPIRED = "expired"
    """Nothing was heard of it for as long as its data is kept; that is gone."""
    MAX_STEPS = "max_steps"
    """It went on for more steps than it may."""
    CHANGED = "changed"
    """Its function is no longer the one that began it."""
    UNKNOWN = "unknown_workflow"
    """No worker knows a workflow of this name."""
    ERROR = "error"
    """Its function raised; `WorkflowRun.error` says what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """How long a run may stay as it is, in seconds, and how much of it there may be.

    ``busy`` without a worker, ``input`` without an answer, ``stale`` without any news; ``lease`` is for
    how long a worker has a run without saying that it still does, ``kept`` how long the data stays once
    the run is over. ``data`` is how long the data stays after any news, whatever the run does; ``None``
    leaves that to the others.
    """

    busy: float = 10.0
    input: float = 86400.0
    stale: float = 86400.0
    lease: float = 15.0
    kept: float = 86400.0
    max_steps: int = 10_000
    max_events: int = 10_000
    data: float | None = None

    def __post_init__(self) -> None:
        for name in ("busy", "input", "stale", "lease", "kept", "data"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigurationError(f"need a finite {name} of more than 0 seconds, got {value}")
        for name in ("max_steps", "max_events"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"need {name} >= 1, got {getattr(self, name)}")


DEFAULT_DEADLINES: Final = Deadlines()


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a run waits for: ``id`` is unique within the run, ``schema`` a JSON Schema or ``None``.

    ``problem`` says why an answer to the same question was not taken, if there was one.
    """

    id: str
    prompt: str
    schema: dict[str, Any] | None = None
    data: Any = None
    problem: str = ""

    def as_data(self) -> dict[str, Any]:
        """Return what clients are told of it, as plain JSON."""
        data = {"id": self.id, "prompt": self.prompt, "schema": self.schema, "data": self.data}
        return data | {"problem": self.problem} if self.problem else data


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """Who executes the run. A write with another ``token`` than the run's last one is refused."""

    token: int = 0
    worker: str = ""
    until: float = 0.0


class EntryKind(StrEnum):
    """What a journal entry is of."""

    STEP = "step"
    ASK = "ask"
    """A question that is open; the answer takes its place."""
    INPUT = "input"


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """One thing the function did, replayed when it is run again.

    ``index`` counts from 0 in the order of the function. ``error`` is what a failed step raised, as
    ``{"module", "type", "args"}``, and then there is no ``value``.
    """

    index: int
    kind: EntryKind
    name: str
    value: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkflowEvent:
    """What clients see. ``id`` counts from 1 within a run, without a gap.

    ``kind`` is ``status``, ``question`` or a name of the function's own.
    """

    id: int
    kind: str
    data: Any
    at: float


NO_MARK: Final = (-1, -1)
"""`WorkflowRun.seen_emit` before the first of the function's own events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkflowRun:
    """All that is known of a run but its journal and its events.

    ``version`` grows by one with each write. ``steps`` is the length of the journal, ``last_event`` the
    id of the newest event. ``deadline`` is when somebody must look at it again. ``seen_emit`` is the
    last of the function's own events that was accepted, as ``(journal length, count since)``. The
    last two are counted by the store, and grow without a new version when the function emits.
    ``queue`` is where its messages go; empty means where the routes say.
    """

    id: str
    workflow: str
    owner: str
    args: list[Any]
    kwargs: dict[str, Any]
    created_at: float
    updated_at: float
    deadline: float | None
    status: WorkflowStatus = WorkflowStatus.WAITING
    version: int = 0
    deadlines: Deadlines = DEFAULT_DEADLINES
    queue: str = ""
    lease: Lease = field(default_factory=Lease)
    steps: int = 0
    last_event: int = 0
    seen_emit: tuple[int, int] = NO_MARK
    question: Question | None = None
    reason: FailureReason | None = None
    error: dict[str, Any] | None = None
    result: Any = None

    @property
    def gone_at(self) -> float | None:
        """When its data is gone unless there is news before; ``None`` if nothing says so."""
        limits = self.deadlines
        if self.reason is FailureReason.EXPIRED:
            return self.updated_at
        if self.status.final:
            return self.updated_at + (limits.kept if limits.data is None else min(limits.kept, limits.data))
        return None if limits.data is None else self.updated_at + limits.data

    def is_gone(self, now: float) -> bool:
        """Whether its data is gone by the clock, swept or not. Who executes it may have news any moment."""
        return self.status is not WorkflowStatus.RUNNING and self.gone_at is not None and self.gone_at <= now
