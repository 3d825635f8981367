"""What is known of a story that was played, as frozen values: what expectations and invariants judge.

Instants are in the log's clock, unless they are said to count from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.history import EventLog
    from pytest_taskservice.scenario.acts import Mark
    from pytest_taskservice.scenario.behaviour import Behaviour
    from pytest_taskservice.scenario.model import Config, Workflow

__all__ = [
    "ClientEvent",
    "ClientTale",
    "CommandResult",
    "Ending",
    "FaultTale",
    "Launched",
    "Mismatch",
    "Record",
    "Started",
    "WorkflowEnding",
    "labels",
]


class Ending(Protocol):
    """How a run ended, as a driver's ``Outcome`` says it."""

    @property
    def status(self) -> str:
        """One of Celery's state names."""

    @property
    def result(self) -> Any:
        """What the run returned."""

    @property
    def error(self) -> str:
        """The class name of the exception."""

    @property
    def message(self) -> str:
        """The text of the exception."""


class WorkflowEnding(Ending, Protocol):
    """How a workflow run ended, as a driver's ``WorkflowOutcome`` says it."""

    @property
    def reason(self) -> str:
        """Why it failed; empty unless it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """What was asked of one run, ``at`` the instant before it was sent.

    ``canvas`` numbers what was launched as one, from 1; 0 for a run of its own.
    """

    at: float
    countdown: float = 0.0
    queue: str = ""
    behaviour: Behaviour | None = None
    canvas: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """What was asked of one workflow run, ``at`` the instant before it was started."""

    at: float
    workflow: Workflow


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """What came of a command: taken, or ``error``, which is the error's code or else its class."""

    at: float
    error: str = ""
    message: str = ""

    @property
    def taken(self) -> bool:
        """Whether it was taken."""
        return not self.error


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientEvent:
    """One event that a client was told, ``at`` the instant when it read it."""

    at: float
    id: int
    kind: str
    data: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientTale:
    """All that one client read of a workflow run, in order; ``refused`` is why it read no more."""

    run: str
    at: float
    events: tuple[ClientEvent, ...] = ()
    refused: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultTale:
    """One fault that was injected ``at`` an instant, and when it struck, each time."""

    at: float
    kind: str
    struck_at: tuple[float, ...] = ()

    @property
    def struck(self) -> int:
        """How often it struck in all."""
        return len(self.struck_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of a story that was played.

    ``runs`` holds run ids by captured name, ``accepted`` those of all that were launched,
    ``endings`` what is known by run id; ``start`` is the story's first instant and ``end`` its last one, and
    by ``looked`` all endings had been looked up, which takes time too.
    ``workflows`` holds ids of workflow runs by captured name, ``workflow_endings`` has ``None`` where the
    data is gone, and ``keys`` how many keys the store held, each time somebody looked. ``entries`` names the
    entries of the beat: the event of a message that it sent says in its detail of which it is.
    """

    log: EventLog
    start: float
    runs: Mapping[str, tuple[str, ...]]
    accepted: tuple[str, ...]
    endings: Mapping[str, Ending]
    end: float = 0.0
    looked: float = 0.0
    launched: Mapping[str, Launched] = field(default_factory=dict)
    workflows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    started: Mapping[str, Started] = field(default_factory=dict)
    workflow_endings: Mapping[str, WorkflowEnding | None] = field(default_factory=dict)
    keys: Mapping[str, tuple[tuple[float, int], ...]] = field(default_factory=dict)
    commands: Mapping[str, tuple[CommandResult, ...]] = field(default_factory=dict)
    clients: Mapping[str, tuple[ClientTale, ...]] = field(default_factory=dict)
    faults: Mapping[str, tuple[FaultTale, ...]] = field(default_factory=dict)
    entries: tuple[str, ...] = ()
    config: Config | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """One thing that was not as it must be.

    ``mark`` is the place in the file that asked for it; ``invariant`` names the rule instead where
    no line did. ``at`` is the instant of what was found, in seconds since the start; ``None`` if it
    has none.
    """

    mark: Mark
    expected: str
    got: str
    run: str = ""
    at: float | None = None
    invariant: str = ""


def labels(name: str, runs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return each run with its label: the captured name, numbered if there are several."""
    if len(runs) == 1:
        return [(name, runs[0])]
    return [(f"{name}#{number}", run) for number, run in enumerate(runs, start=1)]
