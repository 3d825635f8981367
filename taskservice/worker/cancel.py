"""Cancelling what runs: a remote control command that every worker of ours knows."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.worker import state as worker_state
from celery.worker.control import control_command

from taskservice.backends.cancelling import ABSENT, COMMAND
from taskservice.backends.interruptions import interrupt, interrupt_process, listen_in_process

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["install_cancel"]

logger = logging.getLogger(__name__)


def install_cancel(app: Celery) -> None:
    """Have every process of a worker of ``app`` hear of a cancellation; a second call does nothing."""

    def listen(**_: object) -> None:
        # Not on Windows, and not in a thread that plays a process.
        with suppress(AttributeError, ValueError):
            listen_in_process()

    signals.worker_process_init.connect(listen, weak=False, dispatch_uid=f"taskservice-cancel-{id(app)}")


@control_command(name=COMMAND, args=[("run_id", str), ("terminate", bool)], signature="<run id> <terminate>")
def cancel_running(state: Any, run_id: str, terminate: bool = False) -> dict[str, str]:
    """Stop a run of this worker: ``ok`` says what was done, ``error`` why nothing can be."""
    request = next((each for each in list(worker_state.active_requests) if each.id == run_id), None)
    if request is None:
        return {"ok": ABSENT}

    pool = state.consumer.pool
    in_processes = type(pool).__module__.endswith(".prefork")
    # A simulated pool says so itself: its processes are none that a signal could reach.
    kill = terminate and (in_processes or bool(getattr(pool, "ends_bodies", False)))
    if not kill and not getattr(request.task, "definition_is_async", False):
        return {"error": _refusal(request.name, in_processes=in_processes)}

    worker_state.revoked.add(run_id)  # so that no retry follows
    if kill:
        request.terminate(pool)
    elif in_processes:
        with suppress(ProcessLookupError):  # it has just ended, and the run with it
            interrupt_process(request.worker_pid, run_id)
    else:
        interrupt(run_id)
    return {"ok": "stopping"}


def _refusal(task: str, *, in_processes: bool) -> str:
    if in_processes:
        return f"{task!r} is a plain function: only its process can be ended, with terminate=True"

    return f"{task!r} is a plain function, and nothing can stop a thread: run it in a prefork pool"
