"""What happened in one simulation, kept after it is closed: its notes, its digest, where two of them part."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import Any

from pytest_taskservice.history import Event, EventKind, EventLog

__all__ = ["Note", "Story"]

Note = tuple[float, str, str, str, int, str, dict[str, Any]]
"""Wall clock in seconds since the Unix epoch, kind, run, task, attempt, worker, details."""

_SENDERS = ("", "beat")
_FIELDS = ("instant", "kind", "run", "task", "attempt", "worker", "details")


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """The notes of one simulation, in order.

    ``start`` is its first instant in seconds since the Unix epoch, ``elapsed`` how many seconds of virtual
    time it took, and ``draws`` how often chance was asked.
    """

    seed: int
    start: float
    elapsed: float = 0.0
    draws: int = 0
    notes: tuple[Note, ...] = ()

    @property
    def digest(self) -> str:
        """One short text that two stories share exactly if the same happened at the same instants."""
        digest = blake2b(digest_size=8)
        for note in self.notes:
            digest.update(repr(self._line(note)).encode())
        return digest.hexdigest()

    def log(self) -> EventLog:
        """Return the history: what happened to runs, as far as a real worker and the test would tell it.

        A real worker tells nobody what it sends; beat is nobody's worker.
        """
        known = set(EventKind)
        return EventLog(
            Event(
                at=at, kind=EventKind(kind), run=run, task=task, attempt=attempt, worker=worker, detail=detail
            )
            for at, kind, run, task, attempt, worker, detail in self.notes
            if kind in known and not (kind == EventKind.SENT and worker not in _SENDERS)
        )

    def differences(self, other: Story, number: int) -> dict[str, tuple[Any, Any]]:
        """Return what both say of the ``number``-th note, where that differs; both must have one."""
        if number >= min(len(self.notes), len(other.notes)):
            return {}
        both = zip(self._line(self.notes[number]), other._line(other.notes[number]), strict=True)
        return {
            name: (mine, theirs) for name, (mine, theirs) in zip(_FIELDS, both, strict=True) if mine != theirs
        }

    def parts_from(self, other: Story) -> int | None:
        """Return the number, from 0, of the first note in which both differ, if there is one."""
        for number, (mine, theirs) in enumerate(zip_longest(self.notes, other.notes)):
            if mine is None or theirs is None or self._line(mine) != other._line(theirs):
                return number
        return None

    def _line(self, note: Note) -> tuple[Any, ...]:
        at, kind, run, task, attempt, worker, detail = note
        return (round(at - self.start, 6), str(kind), run, task, attempt, worker, sorted(detail.items()))
