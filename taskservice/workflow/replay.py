"""Replay: what a journal says about the next thing that a workflow function asks for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskservice.errors import MaxStepsError, WorkflowChangedError
from taskservice.workflow.model import EntryKind, JournalEntry

__all__ = ["Request", "check_end", "recall"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the function wants next: a STEP, or to ASK something; ``name`` is its identity."""

    kind: EntryKind
    name: str

    def __str__(self) -> str:
        return f"{_NOUNS[self.kind]} {self.name!r}"


def recall(
    run_id: str, journal: Sequence[JournalEntry], index: int, request: Request, *, max_steps: int
) -> JournalEntry | None:
    """Return the entry that answers ``request``, the function's ``index``-th; ``None`` means: do it.

    `WorkflowChangedError` if the journal has something else there, `MaxStepsError` if it has nothing
    and must not grow.
    """
    if index >= len(journal):
        if index >= max_steps:
            raise MaxStepsError(run_id, max_steps)
        return None

    entry = journal[index]
    was = Request(kind=_asked(entry.kind), name=entry.name)
    if was != request or entry.index != index:
        raise WorkflowChangedError(run_id, index, str(was), str(request))

    # A question that is still open is asked again.
    return None if entry.kind is EntryKind.ASK else entry


def check_end(run_id: str, journal: Sequence[JournalEntry], index: int) -> None:
    """Raise `WorkflowChangedError` if a function returned after ``index`` entries, and had more before."""
    if index < len(journal):
        entry = journal[index]
        was = Request(kind=_asked(entry.kind), name=entry.name)
        raise WorkflowChangedError(run_id, index, str(was), "the end of the function")


_NOUNS = {EntryKind.STEP: "step", EntryKind.ASK: "question"}


def _asked(kind: EntryKind) -> EntryKind:
    return EntryKind.ASK if kind is EntryKind.INPUT else kind
