"""What an operator wants to know, read once for `health` and for ``taskservice status``.

Is the broker there, who works, what waits.
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from dataclasses import asdict, dataclass
from time import time
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from taskservice.backends.base import BackendHealth
from taskservice.backends.probing import ping_broker, ping_workers
from taskservice.backends.queues import queue_names, read_queues
from taskservice.backends.storage import open_storage
from taskservice.errors import ConfigurationError
from taskservice.health import PoolState, QueueHealth
from taskservice.heartbeats import WorkerHeartbeat, read_with

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["Overview", "read_overview"]

logger = logging.getLogger(__name__)

NO_WORKER: Final = "no worker; start one with `taskservice worker`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """Broker, workers and queues at one moment; ``at`` is in seconds since the epoch.

    ``problem`` is empty where a run launched now would be run. ``others`` are the workers that answered
    Celery's ping; they are asked only where none beats.
    """

    at: float
    broker: str = ""
    problem: str = ""
    workers: tuple[WorkerHeartbeat, ...] = ()
    others: tuple[str, ...] = ()
    queues: tuple[QueueHealth, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether a run launched now would be run."""
        return not self.problem

    def health(self) -> BackendHealth:
        """Return it as `TaskBackend.health` does."""
        names = ", ".join((*(beat.worker for beat in self.workers), *self.others))
        found = f"{self.broker}, worker {names}" if names else self.broker
        detail = ", but ".join(part for part in (found, self.problem) if part)
        return BackendHealth(
            healthy=self.healthy,
            detail=" ".join(detail.split()),
            workers=tuple(beat.health(self.at) for beat in self.workers),
            queues=self.queues,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data: what the workers said and what follows from it."""
        return {
            "healthy": self.healthy,
            "problem": self.problem,
            "at": self.at,
            "workers": [_worker_json(beat, self.at) for beat in self.workers],
            "others": list(self.others),
            "queues": {
                queue.name: {"depth": queue.depth, "oldest_age": queue.oldest_age} for queue in self.queues
            },
        }


def read_overview(app: Celery, settings: Settings | None = None, *, seconds: float = 1.0) -> Overview:
    """Ask broker, workers and queues; it blocks for ``seconds`` at most, and never raises.

    ``settings`` name queues to look at, besides those of app and workers.
    """
    answers: list[Overview] = []

    def read() -> None:
        try:
            answers.append(_read(app, settings, seconds))
        except Exception as error:
            logger.exception("health could not be read")
            answers.append(Overview(at=time(), problem=repr(error)))

    # A name server or a transport may hang for longer; its thread is left to itself then.
    thread = threading.Thread(target=read, name="taskservice-overview", daemon=True)
    thread.start()
    thread.join(seconds)
    late = f"no answer from broker and workers in {seconds:g} s"
    return answers[0] if answers else Overview(at=time(), problem=late)


def _read(app: Celery, settings: Settings | None, seconds: float) -> Overview:
    broker = ping_broker(app, seconds * 0.8)  # what is wrong is to be said before time is up
    if not broker.healthy:
        return Overview(at=time(), problem=broker.detail)

    beats, silence = _beats(app, seconds)
    others = () if beats else ping_workers(app, seconds / 3)
    problem = _problem(beats, others, silence)
    queues: tuple[QueueHealth, ...] = ()
    now = time()
    try:
        names = queue_names(app, settings.queues if settings else (), *(beat.queues for beat in beats))
        queues = read_queues(app, names, now=now, seconds=seconds)
    except (RedisError, OperationalError, OSError) as error:
        problem = problem or f"its queues could not be read: {error}"
    return Overview(
        at=now, broker=broker.detail, problem=problem, workers=beats, others=others, queues=queues
    )


def _beats(app: Celery, seconds: float) -> tuple[tuple[WorkerHeartbeat, ...], str]:
    """Return the heartbeats, and in words why there may be more."""
    try:
        with closing(open_storage(app, "heartbeats", seconds=seconds)) as storage:
            return tuple(read_with(storage.client, storage.key())), ""
    except ConfigurationError:
        return (), ""
    except (RedisError, OSError) as error:
        return (), f" (heartbeats could not be read: {error})"


def _problem(beats: tuple[WorkerHeartbeat, ...], others: tuple[str, ...], silence: str) -> str:
    if not beats:
        return "" if others else NO_WORKER + silence
    if any(beat.pool_state is not PoolState.HUNG for beat in beats):
        return ""

    since = max(beat.answered for beat in beats)
    beat = next(beat for beat in beats if beat.answered == since)
    silent = beat.at - beat.answered
    what = f"the pool of {beat.worker} hangs" if len(beats) == 1 else f"all {len(beats)} pools hang"
    return f"{what}: nothing has come back for {silent:.0f} s"


def _worker_json(beat: WorkerHeartbeat, now: float) -> dict[str, Any]:
    seen = beat.health(now)
    return asdict(beat) | {"age": seen.age, "longest": seen.longest, "silent": seen.silent}
