"""Health: what is known about workers, their pools and queues at one moment. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["PoolState", "QueueHealth", "WorkerHealth", "pool_state"]


class PoolState(StrEnum):
    """Whether a worker's pool runs what it is given."""

    OK = "ok"
    """It answers, and has a free slot."""
    BUSY = "busy"
    """Every slot holds a run; the next one waits."""
    HUNG = "hung"
    """Nothing came back from it for ``canary_timeout``: no canary, no start and no end of a run."""
    UNKNOWN = "unknown"
    """Nobody asked it: a pool that takes no canary, or a worker of an older version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerHealth:
    """How a worker is; ages are in seconds.

    ``age`` is that of its last word. ``longest`` is how long its oldest run has been running, and
    ``silent`` how long nothing has come back from its pool; ``None`` where that is not known.
    """

    name: str
    pid: int
    age: float
    pool: str
    pool_state: PoolState
    slots: int
    running: int
    longest: float | None = None
    silent: float | None = None
    queues: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueHealth:
    """How many messages wait in a queue, and for how many seconds the oldest one has.

    ``oldest_age`` is ``None`` where nothing waits or the messages do not say when they were sent.
    """

    name: str
    depth: int
    oldest_age: float | None = None


def pool_state(*, slots: int, running: int, silent: float, timeout: float) -> PoolState:
    """Return the state of a pool from which nothing has come back for ``silent`` seconds."""
    if silent > timeout:
        return PoolState.HUNG

    return PoolState.BUSY if running >= slots > 0 else PoolState.OK
