"""What happened in a simulation: the history that every driver tells, and its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined] # the stubs lack it

from pytest_taskservice.history import ENTRY_HEADER, EventKind, brief
from pytest_taskservice.simulator.story import Note, Story

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.history import EventLog
    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["Record", "state_of"]

_KINDS = {
    "task-started": EventKind.STARTED,
    "task-failed": EventKind.FAILED,
    "task-retried": EventKind.RETRIED,
    "task-revoked": EventKind.REVOKED,
    "task-rejected": EventKind.REJECTED,
}
_DETAILS = (
    "parent_id", "result", "exception", "runtime", "eta", "expires", "terminated", "expired", "signum",
    "requeue",
)  # fmt: skip


class Record:
    """Notes of one simulation, in order."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._notes: list[Note] = []

    def now(self) -> float:
        """Return the present, as notes have it."""
        return self._simulation.start + self._simulation.elapsed

    def note(  # noqa: PLR0913 - one event, and all that is known of it
        self,
        kind: str,
        *,
        run: str = "",
        task: str = "",
        attempt: int = 1,
        worker: str = "",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Note that something happened now: by a clock that nobody sets, so that the order holds."""
        simulation = self._simulation
        at = simulation.start + simulation.elapsed
        self._notes.append((at, kind, run, task, attempt, worker, detail or {}))

    def sent(self, headers: Mapping[str, Any], queue: str, *, worker: str = "") -> None:
        """Note a task's message; ``worker`` has sent it, or the test."""
        entry = headers.get(ENTRY_HEADER)
        self.note(
            EventKind.SENT,
            run=headers.get("id") or "",
            task=headers.get("shadow") or headers["task"],
            attempt=int(headers.get("retries") or 0) + 1,
            worker=worker,
            detail={"queue": queue, **({"entry": entry} if entry else {})},
        )

    def received(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        """Note that a worker has accepted a task's message; a receiver of Celery's ``task_received``."""
        detail: dict[str, Any] = {}
        if request.parent_id is not None:
            detail["parent_id"] = request.parent_id
        for name in ("eta", "expires"):
            if instant := getattr(request, name):
                detail[name] = instant.isoformat()
        if request.delivery_info.get("redelivered"):
            detail["redelivered"] = True
        self.note(
            EventKind.RECEIVED,
            run=request.id,
            task=request.name,
            attempt=int(request.request_dict.get("retries") or 0) + 1,
            worker=request.hostname,
            detail=detail,
        )

    def succeeded(self, request: Mapping[str, Any], worker: str, result: str, runtime: float) -> None:
        """Note that a body has ended well; Celery's requests tell it only where events are on."""
        self.note(
            EventKind.SUCCEEDED,
            run=request["id"],
            task=request.get("shadow") or request["task"],
            attempt=int(request.get("retries") or 0) + 1,
            worker=worker,
            detail={"result": brief(result), "runtime": runtime},
        )

    def stored(self, request: Mapping[str, Any], worker: str, returned: Any) -> None:
        """Note that a body had stored its result when its worker died, which tells nobody."""
        state = state_of(returned)
        self.note(
            "stored",
            run=request["id"],
            task=request.get("shadow") or request["task"],
            attempt=int(request.get("retries") or 0) + 1,
            worker=worker,
            detail={"state": state},
        )

    def of_request(self, request: Any, type: str, fields: Mapping[str, Any]) -> None:  # noqa: A002 - Celery's word
        """Note what became of a request."""
        kind = _KINDS.get(type)
        if type == "task-succeeded" and fields.get("runtime") is None:
            # Told by Celery alone where the child died after it had stored the result.
            kind = EventKind.SUCCEEDED
        if kind is not None:
            self.note(
                kind,
                run=request.id,
                task=request.name,
                attempt=int(request.request_dict.get("retries") or 0) + 1,
                worker=request.hostname,
                detail={key: brief(fields[key]) for key in _DETAILS if fields.get(key) is not None},
            )

    def log(self) -> EventLog:
        """Return the history: what happened to runs, as far as a real worker and the test would tell it."""
        return self.story().log()

    def story(self) -> Story:
        """Return all that has happened so far, to be kept."""
        simulation = self._simulation
        return Story(
            seed=simulation.seed,
            start=simulation.start,
            elapsed=simulation.elapsed,
            draws=simulation.random.draws,
            notes=tuple(self._notes),
        )

    def digest(self) -> str:
        """Return a short text that two simulations share if the same happened at the same instants."""
        return self.story().digest

    def notes(self) -> list[Note]:
        """Return everything, in order."""
        return self._notes

    def clear(self) -> None:
        """Forget what has happened so far."""
        self._notes.clear()


def state_of(returned: Any) -> str:
    """Return the state that a body was traced to, as Celery names it; ``IGNORED`` where it asked for none."""
    failed, found = returned[:2]
    if not failed:
        return "SUCCESS"
    error = getattr(found, "exception", found)
    # Not by "exc" alone: a Retry has one too.
    name = type(error.exc if isinstance(error, ExceptionWithTraceback) else error).__name__
    return {"Retry": "RETRY", "Ignore": "IGNORED", "Reject": "REJECTED"}.get(name, "FAILURE")
