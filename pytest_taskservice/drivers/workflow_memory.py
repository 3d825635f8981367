"""A store in this process whose events are told as they are written, whoever starts their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from taskservice.workflow.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskservice.workflow.model import JournalEntry, WorkflowEvent, WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore
    from taskservice.workflow.transitions import Change

__all__ = ["ToldStore", "keys_in"]

Listener: TypeAlias = "Callable[[WorkflowRun, WorkflowEvent], object]"


class ToldStore(MemoryStore):
    """Tells ``listener`` of each event with the run as it was created, in order and under its lock.

    ``changed`` is called after each writing: what is due may be another instant.
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.changed: Callable[[], object] = _nothing
        self._listener = listener
        self._leaves: dict[str, Callable[[], None]] = {}

    def create(self, run: WorkflowRun, event: tuple[str, Any]) -> bool:
        """Watch the run from its first event on."""
        leave = self.watch(run.id, lambda events: [self._listener(run, each) for each in events])
        if not super().create(run, event):
            leave()
            return False

        self._leaves[run.id] = leave
        self.changed()
        return True

    def write(
        self, before: WorkflowRun, change: Change, *, now: float, entry: JournalEntry | None = None
    ) -> bool:
        """Write, and say that there is a change."""
        written = super().write(before, change, now=now, entry=entry)
        self.changed()
        return written

    def forget(self, run_id: str) -> bool:
        """Watch it no longer."""
        if leave := self._leaves.pop(run_id, None):
            leave()
        return super().forget(run_id)


def keys_in(store: WorkflowStore, run_id: str) -> int:
    """Return how many of the three parts of a run are there, each a key where the store is a Redis."""
    there = store.load(run_id) is not None, bool(store.journal(run_id)), bool(store.events(run_id).events)
    return sum(there)


def _nothing() -> None:
    pass
