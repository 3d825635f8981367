"""Metrics and traces, with the extra ``taskservice[telemetry]``; its libraries are loaded on first use."""

from taskservice.telemetry.metrics import metrics_listener
from taskservice.telemetry.traces import instrument

__all__ = ["instrument", "metrics_listener"]
