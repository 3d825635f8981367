"""Heartbeats: what a worker says about itself, and reading what all of them said.

The key expires by itself, by a relative time, so a worker that stops talking disappears.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from json import dumps, loads
from typing import TYPE_CHECKING, Any, Final

from taskservice.health import PoolState, WorkerHealth

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RunningRun", "WorkerHeartbeat", "heartbeat_key", "read_heartbeats", "read_with"]

READ_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningRun:
    """A run under way; ``since`` is in seconds since the epoch, 0 if not known yet."""

    id: str
    task: str
    since: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerHeartbeat:
    """A worker's last word; ``at`` is in seconds since the epoch, by the worker's clock.

    ``canary_sent`` is when the canary was sent that is out, 0 if none is; ``answered`` is when
    anything last came back from the pool, 0 if it was never asked.
    """

    worker: str
    pid: int
    queues: tuple[str, ...]
    pool: str
    slots: int
    running: tuple[RunningRun, ...]
    at: float
    version: str
    pool_state: PoolState = PoolState.UNKNOWN
    canary_sent: float = 0.0
    answered: float = 0.0

    def health(self, now: float) -> WorkerHealth:
        """Return how the worker is at ``now``, by the reader's clock."""
        since = [run.since for run in self.running if run.since]
        return WorkerHealth(
            name=self.worker,
            pid=self.pid,
            age=max(0.0, now - self.at),
            pool=self.pool,
            pool_state=self.pool_state,
            slots=self.slots,
            running=len(self.running),
            longest=max(0.0, self.at - min(since)) if since else None,
            silent=max(0.0, self.at - self.answered) if self.answered else None,
            queues=self.queues,
        )

    def to_json(self) -> str:
        """Return it as it is stored."""
        return dumps(asdict(self))

    @classmethod
    def from_json(cls, stored: str | bytes) -> WorkerHeartbeat:
        """Read what `to_json` wrote; `ValueError` for anything else."""
        try:
            data: dict[str, Any] = loads(stored)
            running = tuple(RunningRun(**run) for run in data.pop("running"))
            queues = tuple(data.pop("queues"))
            state = PoolState(data.pop("pool_state", PoolState.UNKNOWN))
            return cls(running=running, queues=queues, pool_state=state, **data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a heartbeat: {stored!r}") from error


def heartbeat_key(prefix: str, worker: str) -> str:
    """Return the Redis key of a worker's heartbeat."""
    return f"{prefix}worker:{worker}"


def read_heartbeats(redis_url: str, prefix: str, *, seconds: float = READ_SECONDS) -> list[WorkerHeartbeat]:
    """Return the heartbeats of all live workers, by name; `ConnectionError` if Redis is away.

    Each exchange with Redis takes ``seconds`` at most.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    try:
        with Redis.from_url(
            redis_url,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return read_with(client, prefix)
    except (RedisError, OSError) as error:
        raise ConnectionError(f"no heartbeats from Redis: {error}") from error


def read_with(client: Redis, prefix: str) -> list[WorkerHeartbeat]:
    """Do the same by a client that is there already; redis-py's errors come through."""
    keys = list(client.scan_iter(match=_escape(heartbeat_key(prefix, "")) + "*", count=1000))
    if not keys:
        return []

    found = []
    for stored in client.mget(keys):
        # Gone since the scan, or not ours.
        with suppress(ValueError):
            found.append(WorkerHeartbeat.from_json(stored or ""))
    return sorted(found, key=lambda beat: beat.worker)


def _escape(prefix: str) -> str:
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in prefix)
