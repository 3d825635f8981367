"""Having workers stop a run: revoked where it waits, interrupted or ended where it runs.

Each function blocks, for `ANSWER_SECONDS` at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celery import states

from taskservice.backends.versions import CELERY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

__all__ = ["ABSENT", "COMMAND", "revoke_waiting", "running_on", "stop_running"]

COMMAND: Final = "taskservice_cancel"
"""The remote control command that workers of ours know."""
ABSENT: Final = "not running here"
ANSWER_SECONDS: Final = 2.0

# A worker of Celery 5.5 notes what is revoked, and stores it no earlier than the run is due.
_WORKERS_STORE: Final = CELERY >= (5, 6)
_WAITING: Final = frozenset({states.PENDING, states.RECEIVED, states.RETRY})


def revoke_waiting(app: Celery, *run_ids: str) -> None:
    """Have every worker that hears of it store REVOKED for these, unless it is running them already."""
    if _WORKERS_STORE:
        app.control.revoke(list(run_ids))
        return

    told = app.control.revoke(list(run_ids), reply=True, timeout=ANSWER_SECONDS, limit=1)
    for run_id in run_ids if told else ():
        if app.backend.get_state(run_id) in _WAITING:
            app.backend.mark_as_revoked(run_id, "revoked")


def running_on(meta: Mapping[str, Any]) -> str | None:
    """Return the name of the worker that runs it, if its stored state says so."""
    told = meta.get("result")
    found = told.get("hostname") if isinstance(told, dict) else None
    found = found or meta.get("worker")
    return str(found) if found else None


def stop_running(app: Celery, run_id: str, worker: str | None, *, terminate: bool) -> str | None:
    """Have ``worker``, or else all of them, stop the run; return why it can't be, or ``None``.

    A worker that is not ours can only be told to end the process, and does not say what became of it.
    """
    arguments = {"run_id": run_id, "terminate": terminate}
    answers = app.control.broadcast(
        COMMAND,
        arguments=arguments,
        destination=None if worker is None else [worker],
        reply=True,
        timeout=ANSWER_SECONDS,
        limit=None if worker is None else 1,
    )
    found = [answer for each in answers or () for answer in each.values()]
    refused = [str(answer["error"]) for answer in found if "error" in answer]
    if not found:
        return f"no answer from its worker, {worker or 'whichever it is'}, in {ANSWER_SECONDS:g} s"
    if not refused:
        return None
    if refused[0] != repr(KeyError(COMMAND)):
        return refused[0]

    if not terminate:
        return "its worker was not started by taskservice, and can only be told to end the run's process"
    app.control.revoke(run_id, destination=None if worker is None else [worker], terminate=True)
    return None
