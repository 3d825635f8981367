"""A worker's metrics: counted in its pool by Celery's signals, shown over HTTP by its main process."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import datetime
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from celery import signals, states
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from taskservice.backends.packed import PACKED
from taskservice.backends.queues import read_queues
from taskservice.errors import ConfigurationError
from taskservice.health import PoolState
from taskservice.telemetry.extra import load_extra
from taskservice.telemetry.metrics import TaskMetrics, task_metrics
from taskservice.telemetry.multiprocess import collected
from taskservice.worker.heartbeat import last_beat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

__all__ = ["serving_metrics"]

logger = logging.getLogger(__name__)

QUEUE_SECONDS: Final = 1.0


@contextmanager
def serving_metrics(app: Celery, *, host: str, port: int) -> Iterator[None]:
    """Count what workers of ``app`` do in here, and show it at ``http://host:port/metrics``."""
    with collected() as folder:
        prometheus = load_extra("prometheus_client", "metrics")
        registry = prometheus.CollectorRegistry()
        multiprocess = load_extra("prometheus_client.multiprocess", "metrics")
        multiprocess.MultiProcessCollector(registry, path=str(folder))
        registry.register(_WorkerCollector(app))
        try:
            server, thread = prometheus.start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics cannot be shown at {host}:{port}: {error}; choose another --metrics-port"
            ) from error

        logger.info("metrics shown at http://%s:%d/metrics", host, server.server_port)
        counter = _RunCounter(app, task_metrics())
        counter.connect()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _RunCounter:
    """Hears of runs where they run, and in the main process of those that their process did not survive."""

    def __init__(self, app: Celery, metrics: TaskMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._started: dict[str, float] = {}

    def connect(self) -> None:
        signals.task_prerun.connect(self.begin, weak=False)
        signals.task_postrun.connect(self.end, weak=False)
        signals.task_failure.connect(self.fail, weak=False)
        signals.task_revoked.connect(self.revoke, weak=False)

    def begin(self, task_id: str = "", task: Any = None, **_: object) -> None:
        if not self._counts(task):
            return

        self._started[task_id] = monotonic()
        waited = _waited(task.request, time())
        if waited is not None:
            self._metrics.queue_seconds.labels(task.name).observe(waited)

    def end(self, task_id: str = "", task: Any = None, state: str | None = None, **_: object) -> None:
        started = self._started.pop(task_id, None)
        if started is None:
            return

        self._metrics.run_seconds.labels(task.name).observe(monotonic() - started)
        if state == states.RETRY:
            self._metrics.retries.labels(task.name).inc()
        else:
            self._metrics.runs.labels(task.name, str(state)).inc()

    def fail(self, sender: Any = None, task_id: str = "", **_: object) -> None:
        # A child tells of its end; only of one that was killed does the main process hear alone.
        if self._counts(sender) and task_id not in self._started:
            self._metrics.runs.labels(sender.name, states.FAILURE).inc()

    def revoke(self, sender: Any = None, **_: object) -> None:
        if self._counts(sender):
            self._metrics.runs.labels(sender.name, states.REVOKED).inc()

    def _counts(self, task: Any) -> bool:
        # The calls in a packed message are runs; the message is not.
        return task is not None and task.app is self._app and not task.name.startswith(PACKED)


class _WorkerCollector:
    """What the worker last said about itself, and its queues as they are now."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def describe(self) -> list[Any]:
        # Without it the registry would collect once to learn the names, before there is a worker.
        return []

    def collect(self) -> Iterator[Any]:
        core = load_extra("prometheus_client.metrics_core", "metrics")
        beat = last_beat(self._app)
        if beat is None:
            return

        for name, value, text in (
            ("slots", beat.slots, "Slots of the worker's pool."),
            ("running", len(beat.running), "Runs that are under way."),
        ):
            gauge = core.GaugeMetricFamily(f"taskservice_worker_{name}", text, labels=["worker"])
            gauge.add_metric([beat.worker], value)
            yield gauge
        pool = core.GaugeMetricFamily(
            "taskservice_worker_pool_state",
            "1 for the state that the pool is in.",
            labels=["worker", "state"],
        )
        for state in PoolState:
            pool.add_metric([beat.worker, state.value], float(beat.pool_state is state))
        yield pool
        yield from self._queues(core, beat.queues)

    def _queues(self, core: Any, names: tuple[str, ...]) -> Iterator[Any]:
        depth = core.GaugeMetricFamily("taskservice_queue_depth", "Messages that wait.", labels=["queue"])
        age = core.GaugeMetricFamily(
            "taskservice_queue_oldest_age_seconds", "How long the oldest message waits.", labels=["queue"]
        )
        try:
            found = read_queues(self._app, names, now=time(), seconds=QUEUE_SECONDS)
        except (RedisError, OperationalError, OSError) as error:
            logger.warning("queues could not be measured: %s", error)
            return

        for queue in found:
            depth.add_metric([queue.name], queue.depth)
            if queue.depth == 0 or queue.oldest_age is not None:
                age.add_metric([queue.name], queue.oldest_age or 0.0)
        yield depth
        yield age


def _waited(request: Any, now: float) -> float | None:
    """Return for how long the message of ``request`` waited; ``None`` if it does not say when it was sent."""
    properties = getattr(request, "properties", None) or {}
    sent = properties.get("timestamp")
    if not isinstance(sent, int | float):
        return None

    due = datetime.fromisoformat(request.eta).timestamp() if request.eta else 0.0
    return max(0.0, now - max(float(sent), due))
