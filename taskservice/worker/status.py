"""What an operator wants to know: is the broker there, who works, what waits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from taskservice.backends.probing import connect_redis
from taskservice.heartbeats import WorkerHeartbeat, read_with

if TYPE_CHECKING:
    from redis import Redis

    from taskservice.settings import Settings

__all__ = ["ServiceStatus", "read_status"]

# kombu's Redis transport: priority p > 0 of queue q is the list "q\x06\x16p".
PRIORITIES: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStatus:
    """The state of broker, workers and queues; ``depths`` counts messages that wait per queue.

    ``at`` is in seconds since the epoch. ``problem`` is empty where all is well.
    """

    at: float
    problem: str
    workers: tuple[WorkerHeartbeat, ...] = ()
    depths: tuple[tuple[str, int], ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether a run launched now would be run."""
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "healthy": self.healthy,
            "problem": self.problem,
            "at": self.at,
            "workers": [asdict(beat) for beat in self.workers],
            "queues": dict(self.depths),
        }


def read_status(settings: Settings, *, seconds: float = 1.0) -> ServiceStatus:
    """Ask Redis; each exchange takes ``seconds`` at most. Depths need a Redis broker."""
    try:
        with connect_redis(settings.redis_url, seconds) as client:
            client.ping()
            beats = tuple(read_with(client, settings.key_prefix))
        depths = _depths(settings, beats, seconds)
    except (RedisError, OSError) as error:
        return ServiceStatus(at=time(), problem=f"no broker: {error}")

    problem = "" if beats else "no worker; start one with `taskservice worker`"
    return ServiceStatus(at=time(), problem=problem, workers=beats, depths=depths)


def _depths(
    settings: Settings, beats: tuple[WorkerHeartbeat, ...], seconds: float
) -> tuple[tuple[str, int], ...]:
    if not settings.effective_broker_url.startswith(("redis://", "rediss://", "unix://")):
        return ()

    queues = {settings.default_queue, *settings.queues, *settings.routes.values()}
    queues.update(queue for beat in beats for queue in beat.queues)
    with connect_redis(settings.effective_broker_url, seconds) as client:
        return tuple((queue, _depth(client, settings, queue)) for queue in sorted(queues))


def _depth(client: Redis, settings: Settings, queue: str) -> int:
    pipeline = client.pipeline(transaction=False)
    for priority in PRIORITIES:
        pipeline.llen(f"{settings.broker_key_prefix}{queue}{priority}")
    return sum(int(length) for length in pipeline.execute())
