"""The beat of a story: Celery's own scheduler in a process of its own, with the story's entries alone."""

from __future__ import annotations

import json
import os
import signal
import socket
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.app_patch import override
from pytest_taskservice.history import ENTRY_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from pytest_taskservice.drivers.worker_spec import WorkerSpec

__all__ = ["serve_beat"]

_beat: Any = import_module("celery.beat")


def serve_beat(app: Celery, spec: WorkerSpec) -> int:
    """Send what is due until told to stop; greet the test process as a worker does once that begins."""
    override(
        app.conf,
        {
            "beat_schedule": {name: _entry(name, told) for name, told in spec.beat.items()},
            # Written after each message, so that a beat that is killed does not send one twice.
            "beat_sync_every": 1,
            "beat_max_loop_interval": 1,
        },
    )
    service = _beat.Service(
        app,
        scheduler_cls=_beat.PersistentScheduler,
        schedule_filename=str(Path(spec.ledger, "schedule")),
    )
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    with socket.socket(fileno=spec.agent) as connection:
        # Opened first: what is due from now on is sent.
        _ = service.scheduler.schedule
        connection.sendall(json.dumps({"pid": os.getpid(), "tasks": [], "queues": []}).encode() + b"\n")
        service.start()
    return 0


def _entry(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    from pytest_taskservice.drivers.zoned import zoned

    return {
        "task": told["task"],
        "schedule": zoned(told["cron"], told["timezone"]) if told["cron"] else float(told["every"]),
        "args": tuple(told["args"]),
        "kwargs": told["kwargs"],
        "options": {**told["options"], "headers": {ENTRY_HEADER: name}},
    }
