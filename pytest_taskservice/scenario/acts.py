"""What happens in a scenario, as frozen values: one for each kind of step, and the faults among them.

``steps`` reads these, ``engine`` does them. Every duration and instant is a float of seconds. Of the two
instants of every step, ``at`` counts from the start of the story and wins; else ``after`` counts from the
end of the step before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONNECTION_FAULTS",
    "DELIVERY_FAULTS",
    "FAULT_TARGETS",
    "PROCESS_FAULTS",
    "Advance",
    "Command",
    "Continue",
    "Disconnect",
    "FaultCall",
    "Follow",
    "Heal",
    "Inject",
    "Input",
    "Launch",
    "Mark",
    "Reconnect",
    "Revoke",
    "Start",
    "Step",
    "Stop",
    "Together",
    "Wait",
]

PROCESS_FAULTS = ("kill", "term", "pause", "restart", "lose_child", "slow")
CONNECTION_FAULTS = ("latency", "down", "timeout", "reset_peer", "bandwidth", "slicer")
DELIVERY_FAULTS = ("duplicate", "drop_ack", "delay")
FAULT_TARGETS = ("worker", "beat", "redis")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in a scenario file; lines and columns count from 1."""

    path: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultCall:
    """One fault.

    ``target`` is one of ``FAULT_TARGETS``; ``worker`` names one of several, empty means that the seed
    draws it. ``when`` is the point of a run's life where it strikes (``received``, ``started``,
    ``running``, ``stored``), ``into`` how far a body is by then; ``task`` and ``queue`` narrow which runs
    or messages it is for. ``lasts`` (the file's ``for``) is how long it stays, ``None`` until it is healed;
    ``by`` is its measure: seconds of latency, delay or slowness, ``rate`` bytes a second, ``size`` bytes a
    slice. ``restart`` is how long after its end a process comes up again, ``None`` never; ``times`` how
    often it strikes.
    """

    kind: str
    target: str = "worker"
    worker: str = ""
    when: str = ""
    into: float = 0.0
    task: str = ""
    queue: str = ""
    lasts: float | None = None
    by: float = 0.0
    rate: int = 0
    size: int = 0
    restart: float | None = 1.0
    times: int | None = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Submit a task or a canvas ``count`` times; ``name`` (the file's ``as``) captures the runs."""

    mark: Mark
    task: str
    at: float | None = None
    after: float = 0.0
    count: int = 1
    countdown: float | None = None
    expires: float | None = None
    priority: int | None = None
    name: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Start ``workflow`` ``count`` times; ``name`` captures the workflow runs."""

    mark: Mark
    workflow: str
    at: float | None = None
    after: float = 0.0
    count: int = 1
    name: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """Answer the open question of the workflow runs captured under ``run``.

    With ``question``, its prompt, the last one that asked so, open or not.
    ``name`` captures what came of this command: taken, or an error's code.
    """

    mark: Mark
    run: str
    at: float | None = None
    after: float = 0.0
    value: Any = True
    question: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """Have workers take a workflow run up again, as a repeated message would; ``name`` captures it."""

    mark: Mark
    run: str
    at: float | None = None
    after: float = 0.0
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """End a workflow run, whatever it does; ``name`` captures what came of it."""

    mark: Mark
    run: str
    at: float | None = None
    after: float = 0.0
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Follow:
    """Read a workflow run's events as a client, from the first one on; ``name`` captures the client."""

    mark: Mark
    run: str
    name: str
    at: float | None = None
    after: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Disconnect:
    """Cut a client off."""

    mark: Mark
    client: str
    at: float | None = None
    after: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconnect:
    """Have a client read on after the last event it saw."""

    mark: Mark
    client: str
    at: float | None = None
    after: float = 0.0


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
class Advance:
    """Let ``duration`` of the story's time pass, event by event, without anybody waiting for something."""

    mark: Mark
    duration: float
    at: float | None = None
    after: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Revoke:
    """Withdraw the runs captured under ``name``."""

    mark: Mark
    name: str
    at: float | None = None
    after: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Inject:
    """Break something; ``name`` captures the fault for ``heal`` and for expectations."""

    mark: Mark
    fault: FaultCall
    at: float | None = None
    after: float = 0.0
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Heal:
    """End the faults captured under ``names``; all of them if there are none."""

    mark: Mark
    names: tuple[str, ...] = ()
    at: float | None = None
    after: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Together:
    """Do all of ``steps`` at once, in an order that the seed draws, or that really races."""

    mark: Mark
    steps: tuple[Command, ...]
    at: float | None = None
    after: float = 0.0


Command: TypeAlias = Launch | Start | Input | Continue | Stop | Revoke
"""What somebody asks of the system, and can be asked by several at once."""

Step: TypeAlias = (
    Launch
    | Start
    | Input
    | Continue
    | Stop
    | Follow
    | Disconnect
    | Reconnect
    | Wait
    | Advance
    | Revoke
    | Inject
    | Heal
    | Together
)
