"""The contract of a workflow store, and the one way to write through it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from taskservice.errors import WorkflowConflictError, WorkflowExpiredError
from taskservice.workflow.model import WorkflowStatus
from taskservice.workflow.transitions import decide

if TYPE_CHECKING:
    from taskservice.workflow.model import JournalEntry, WorkflowEvent, WorkflowRun
    from taskservice.workflow.transitions import Change, Signal

__all__ = ["EventPage", "EventWatcher", "WorkflowStore", "apply_signal", "lifetime", "load_run", "tell"]

logger = logging.getLogger(__name__)

TRIES: Final = 100
"""How often a write is tried again that somebody else was faster with."""
SPARE: Final = 60.0
"""How much longer than it may be silent a run stays after its deadline, in seconds: until it is swept."""
LONGEST: Final = 1e9
"""Thirty years, in seconds: more than a timeout needs, and what every server can count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventPage:
    """Events in their order; ``trimmed`` if some between the one asked for and the first are gone."""

    events: tuple[WorkflowEvent, ...]
    trimmed: bool = False


EventWatcher = Callable[[Sequence["WorkflowEvent"]], object]
"""Gets new events, or none when one should look for oneself; from any thread, and must not block."""


class WorkflowStore(Protocol):
    """Keeps workflow runs. Every method may block for a round trip, and be called by any thread.

    Instants come in as arguments, in seconds since the epoch; the store never looks at a clock. A
    store that cannot be reached raises `BackendUnavailableError`.
    """

    @property
    def local(self) -> bool:
        """Whether it is this process's memory: never blocks, and is gone with the process."""

    def create(self, run: WorkflowRun, event: tuple[str, Any]) -> bool:
        """Keep a new run with its first event; False if its id is taken."""

    def load(self, run_id: str) -> WorkflowRun | None:
        """Return the run, or ``None`` if it never was or its data is gone."""

    def journal(self, run_id: str) -> list[JournalEntry]:
        """Return its journal in order; empty for an unknown run."""

    def write(
        self, before: WorkflowRun, change: Change, *, now: float, entry: JournalEntry | None = None
    ) -> bool:
        """Make ``change`` of ``before``, all at once, unless the run is no longer at its version.

        Status, version, lease, deadline, the event and the journal's ``entry`` are written together
        or not at all. An entry with an index that is there takes its place. Returns False, and
        writes nothing, if somebody else was faster or the data is gone. The event's id is the
        store's to count, whatever ``change.run.last_event`` says. The data of a run stays for its
        `lifetime`; of one that has EXPIRED it is gone at once, and watchers are told that last event.
        """

    def emit(
        self,
        run_id: str,
        token: int,
        events: Sequence[tuple[tuple[int, int], str, Any]],
        *,
        now: float,
    ) -> None:
        """Append the function's own events: ``((journal length, count since), kind, data)`` each.

        One whose mark is not beyond ``seen_emit`` was accepted before, and is left out. An event is
        news of the run: ``updated_at`` becomes ``now``. `LeaseLostError` if the run is not RUNNING
        under ``token``.
        """

    def events(self, run_id: str, *, after: int = 0, limit: int = 500) -> EventPage:
        """Return the events that follow id ``after``, oldest first."""

    def watch(self, run_id: str, watcher: EventWatcher) -> Callable[[], None]:
        """Have ``watcher`` told of events to come; what is returned takes that back.

        Every event from the return of this on is handed over, or comes before a call without events:
        whoever gets such a call reads `events` after the last one seen. One may come soon, when the
        server has confirmed, and one comes after each broken connection, once it is there again.
        Events come in their order, and a jump in their ids means the same as a call without any.
        Watching polls nothing, and any number of runs share one connection.
        """

    def due(self, now: float, *, limit: int = 100) -> list[str]:
        """Return the ids of runs whose deadline has passed, the longest overdue first."""

    def forget(self, run_id: str) -> bool:
        """Remove all data of a run at once; False if there was none."""

    def close(self) -> None:
        """Give connections and threads back. May be called more than once."""


def apply_signal(
    store: WorkflowStore, run_id: str, signal: Signal, *, now: float, entry: JournalEntry | None = None
) -> Change:
    """Do to a run what ``signal`` says, whoever else is at it; the errors are those of `decide`.

    `WorkflowExpiredError` for a run whose data is gone.
    """
    for _ in range(TRIES):
        run = store.load(run_id)
        if run is None:
            raise WorkflowExpiredError(run_id)
        change = decide(run, signal, now=now)
        if store.write(run, change, now=now, entry=entry):
            return change
    raise WorkflowConflictError(run_id, TRIES)


def load_run(store: WorkflowStore, run_id: str, *, now: float) -> WorkflowRun:
    """Return a run, or raise `WorkflowExpiredError` if its data is gone, be it by the clock alone."""
    run = store.load(run_id)
    if run is None or run.is_gone(now):
        raise WorkflowExpiredError(run_id)

    return run


def lifetime(run: WorkflowRun, now: float) -> float:
    """Return for how many seconds the data of ``run`` stays if nobody writes or sweeps any more."""
    gone_at = run.gone_at
    if run.deadline is None:
        return min(max(0.0, (gone_at or now) - now), LONGEST)

    silent = run.deadlines.stale
    if gone_at is not None and run.status is not WorkflowStatus.RUNNING:
        return min(max(0.0, gone_at - now) + SPARE, LONGEST)
    if gone_at is not None:
        # What its function emits is news too, and unknown to whoever renews the lease.
        silent = min(silent, run.deadlines.data or silent)
    return min(max(0.0, run.deadline - now) + silent + SPARE, LONGEST)


def tell(watcher: EventWatcher, events: Sequence[WorkflowEvent]) -> None:
    """Call ``watcher``; one that raises is logged, and harms nobody else."""
    try:
        watcher(events)
    except Exception:
        logger.exception("a watcher of workflow events failed")
