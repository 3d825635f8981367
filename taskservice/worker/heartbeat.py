"""A worker's heartbeat: a daemon thread that says what the worker is and does, until it stops."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from time import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery import signals
from celery.worker import state
from redis.exceptions import RedisError

from taskservice.backends.storage import Storage, open_storage
from taskservice.errors import ConfigurationError
from taskservice.heartbeats import (
    RunningRun,
    WorkerHeartbeat,
    heartbeat_key,
    read_heartbeats,
)
from taskservice.worker.canary import Canary, pool_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from taskservice.settings import Settings

__all__ = [
    "HeartbeatThread",
    "WorkerHeartbeat",
    "describe",
    "install_heartbeat",
    "last_beat",
    "read_heartbeats",
]

logger = logging.getLogger(__name__)


class HeartbeatThread:
    """Writes ``describe()`` to Redis every interval; Redis away means: again next time."""

    def __init__(self, storage: Storage, settings: Settings, describe: Callable[[], WorkerHeartbeat]) -> None:
        self._storage = storage
        self._describe = describe
        self._interval = settings.heartbeat_interval.total_seconds()
        self._ttl_ms = max(1, int(settings.heartbeat_ttl.total_seconds() * 1000))
        self._stopped = threading.Event()
        self._key: str | None = None
        self.last: WorkerHeartbeat | None = None
        self._thread = threading.Thread(target=self._serve, name="taskservice-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and take the heartbeat away at once instead of when it expires."""
        self._stopped.set()
        self._thread.join(timeout=2 * self._interval)
        with suppress(RedisError, OSError):
            if self._key is not None:
                self._storage.client.delete(self._key)
        self._storage.close()

    def beat(self) -> None:
        """Write it once; redis-py's errors come through."""
        beat = self.last = self._describe()
        self._key = heartbeat_key(self._storage.key(), beat.worker)
        self._storage.client.set(self._key, beat.to_json(), px=self._ttl_ms)

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                self.beat()
            except (RedisError, OSError) as error:
                logger.warning("heartbeat not written: %s", error)
            except Exception:
                logger.exception("heartbeat failed")
            self._stopped.wait(self._interval)


_beating: WeakKeyDictionary[Celery, HeartbeatThread] = WeakKeyDictionary()


def last_beat(app: Celery) -> WorkerHeartbeat | None:
    """Return what this process's worker of ``app`` last said, whether or not Redis heard it."""
    thread = _beating.get(app)
    return None if thread is None else thread.last


def install_heartbeat(app: Celery, settings: Settings) -> None:
    """Have every worker of ``app`` beat from ready to shutdown; a second call does nothing."""
    threads: list[HeartbeatThread] = []
    canaries: list[Canary] = []

    def begin(sender: Any = None, **_: object) -> None:
        if getattr(sender, "app", None) is not app:
            return

        # The consumer sends this signal again after each reconnection to its broker.
        if threads:
            canaries[0].start()
            return

        try:
            storage = open_storage(app, "heartbeats", seconds=settings.heartbeat_interval.total_seconds())
        except ConfigurationError as error:
            logger.warning("this worker does not beat: %s", error)
            return

        canaries.append(Canary(sender, settings))
        canaries[0].start()
        threads.append(HeartbeatThread(storage, settings, lambda: describe(sender, canaries[0])))
        _beating[app] = threads[0]
        threads[0].start()

    def end(sender: Any = None, **_: object) -> None:
        if getattr(sender, "app", None) is app and threads:
            canaries.pop().stop()
            _beating.pop(app, None)
            threads.pop().stop()

    uid = f"taskservice-heartbeat-{id(app)}"
    signals.worker_ready.connect(begin, weak=False, dispatch_uid=uid)
    signals.worker_shutdown.connect(end, weak=False, dispatch_uid=uid)


def describe(consumer: Any, canary: Canary) -> WorkerHeartbeat:
    """Return what the worker of ``consumer`` is and does now."""
    pool = consumer.pool
    running = _running()
    slots = int(getattr(pool, "num_processes", 0) or getattr(pool, "limit", 0) or 0)
    pulse = canary.pulse(slots=slots, running=tuple(run.id for run in running))
    at = time()
    return WorkerHeartbeat(
        worker=str(consumer.hostname),
        pid=os.getpid(),
        queues=tuple(sorted(consumer.app.amqp.queues.consume_from)),
        pool=pool_name(pool),
        slots=slots,
        running=running,
        at=at,
        version=_version(),
        pool_state=pulse.state,
        canary_sent=0.0 if pulse.out is None else at - pulse.out,
        answered=0.0 if pulse.silent is None else at - pulse.silent,
    )


def _running() -> tuple[RunningRun, ...]:
    found = [
        RunningRun(id=request.id, task=request.name, since=float(request.time_start or 0.0))
        for request in _snapshot()
    ]
    return tuple(sorted(found, key=lambda run: (run.since, run.id)))


def _snapshot() -> list[Any]:
    # The worker's main thread changes the set; a WeakSet may notice while it is copied.
    for _ in range(5):
        with suppress(RuntimeError):
            return list(state.active_requests)
    return []


@cache
def _version() -> str:
    try:
        return version("taskservice")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
