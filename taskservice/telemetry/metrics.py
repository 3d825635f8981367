"""What is counted about runs, in Prometheus' terms, wherever they run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from taskservice.runs import RunEvent, RunEventKind, TaskState
from taskservice.telemetry.extra import load_extra

if TYPE_CHECKING:
    from taskservice.runs import RunListener

__all__ = ["TaskMetrics", "metrics_listener", "task_metrics"]

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
_ENDINGS: Final = {
    RunEventKind.SUCCEEDED: TaskState.SUCCESS,
    RunEventKind.FAILED: TaskState.FAILURE,
    RunEventKind.REVOKED: TaskState.REVOKED,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMetrics:
    """The metrics of tasks; labels are ``task``, and ``state`` for ``runs``."""

    runs: Any
    retries: Any
    run_seconds: Any
    queue_seconds: Any


@cache
def task_metrics() -> TaskMetrics:
    """Return the metrics of this process, in the default registry; `ConfigurationError` without the extra."""
    prometheus = load_extra("prometheus_client", "metrics")
    labels = ("task",)
    return TaskMetrics(
        runs=prometheus.Counter(
            "taskservice_runs", "Runs that are over, by their state.", (*labels, "state")
        ),
        retries=prometheus.Counter("taskservice_retries", "Attempts that ended in a retry.", labels),
        run_seconds=prometheus.Histogram(
            "taskservice_run_seconds", "How long an attempt took.", labels, buckets=BUCKETS
        ),
        queue_seconds=prometheus.Histogram(
            "taskservice_queue_seconds",
            "How long a run waited after it could start.",
            labels,
            buckets=BUCKETS,
        ),
    )


def metrics_listener() -> RunListener:
    """Return a listener for in-process runs that feeds the same metrics as a worker does.

    Where they are shown is yours: they are in `prometheus_client`'s default registry. In process there
    is no queue, so nothing is observed of ``queue_seconds``.
    """
    return _Listener(task_metrics())


class _Listener:
    def __init__(self, metrics: TaskMetrics) -> None:
        self._metrics = metrics
        self._started: dict[str, float] = {}

    def __call__(self, event: RunEvent) -> None:
        if event.kind is RunEventKind.STARTED:
            self._started[event.run] = event.at
            return

        started = self._started.pop(event.run, None)
        if started is not None:
            self._metrics.run_seconds.labels(event.task).observe(max(0.0, event.at - started))
        if event.kind is RunEventKind.RETRIED:
            self._metrics.retries.labels(event.task).inc()
        elif event.kind in _ENDINGS:
            self._metrics.runs.labels(event.task, _ENDINGS[event.kind].value).inc()
