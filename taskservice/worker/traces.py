"""Traces in a worker: begun where its runs run, after the fork, and sent before that process ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import signals

from taskservice.telemetry.traces import flush_traces, instrument, require_traces
from taskservice.worker.canary import pool_name

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["install_traces"]


def install_traces(app: Celery) -> None:
    """Have workers of ``app`` write traces; a second call does nothing, an error comes at once."""
    require_traces()

    def begin(**_: object) -> None:
        instrument()

    def begin_here(sender: Any = None, **_: object) -> None:
        # What a thread of the main process sends would not survive the fork of a prefork pool.
        if pool_name(sender.pool) != "prefork":
            instrument()

    def end(**_: object) -> None:
        flush_traces()

    uid = f"taskservice-traces-{id(app)}"
    signals.worker_process_init.connect(begin, weak=False, dispatch_uid=uid)
    signals.worker_process_shutdown.connect(end, weak=False, dispatch_uid=uid)
    signals.worker_ready.connect(begin_here, weak=False, dispatch_uid=uid)
    signals.worker_shutdown.connect(end, weak=False, dispatch_uid=uid)
