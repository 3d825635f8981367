"""Sessions: one execution of a run, what it has replayed, and what it writes.

A session knows nothing of how its function is called; the contexts do, sync and async, and both are
thin callers of this. Its methods may block for a round trip to the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from secrets import token_hex
from time import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from taskservice.errors import MaxStepsError, WorkflowChangedError, WorkflowMisuseError
from taskservice.payloads import wire_value
from taskservice.workflow.emission import Emission, Emitter
from taskservice.workflow.leases import AbandonedRun, LeasedRun
from taskservice.workflow.model import EntryKind, FailureReason, JournalEntry, Question
from taskservice.workflow.replay import Request, check_end, recall
from taskservice.workflow.transitions import Ask, Fail, Step, Succeed
from taskservice.workflow.values import error_record, json_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskservice.workflow.emission import EventFlusher
    from taskservice.workflow.store.base import WorkflowStore

__all__ = ["RunSession", "SuspendedRun", "Suspension"]

RESERVED: Final = frozenset({"status", "question", "snapshot"})
LONGEST_KIND: Final = 100


class SuspendedRun(BaseException):
    """Leaves a workflow function that waits for an answer; code must let it through."""


class EndedRun(BaseException):
    """Leaves a workflow function that went on after an error which ends its run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspension:
    """What the run is to wait for once its function has been left."""

    question: Question
    name: str
    timeout: float | None


class RunSession:
    """One execution of one run under one lease."""

    def __init__(  # noqa: PLR0913 - what a runner has of a run
        self,
        store: WorkflowStore,
        leased: LeasedRun,
        journal: Sequence[JournalEntry],
        *,
        flusher: EventFlusher,
        payload_limit: int,
        clock: Callable[[], float] = time,
    ) -> None:
        self._leased = leased
        self._journal = journal
        self._limit = payload_limit
        self._index = 0
        self._emitted = 0
        self._counting = threading.Lock()
        self._step: str | None = None
        self._over = False
        self._fatal: Exception | None = None
        self.suspension: Suspension | None = None
        self._emitter = Emitter(
            lambda events: store.emit(leased.run.id, leased.token, events, now=clock()), flusher
        )

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._leased.run.id

    @property
    def owner(self) -> str:
        """Whose run it is."""
        return self._leased.run.owner

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self._leased.run.workflow

    @property
    def index(self) -> int:
        """How many entries the function has come past."""
        return self._index

    @property
    def lost(self) -> threading.Event:
        """Set once the run is somebody else's, or over."""
        return self._leased.lost

    @property
    def payload_limit(self) -> int:
        """How many bytes a value may have as JSON."""
        return self._limit

    @property
    def fatal(self) -> Exception | None:
        """What ends the run, whatever its function makes of it."""
        return self._fatal

    @property
    def doubtful(self) -> bool:
        """Whether another worker may have the run by now, so that `confirm` is due before a step."""
        return self._leased.lapsed

    def confirm(self) -> None:
        """Make sure that the run is ours still."""
        self._leased.confirm()

    def telling(self, listener: Callable[[], object]) -> AbstractContextManager[None]:
        """Have ``listener`` called, from any thread, once the run is lost in the block."""
        return self._leased.telling(listener)

    def check(self, what: str) -> None:
        """Raise unless the function may go on: what stopped it before stops it again.

        ``what`` names the call for the error about a context that is used when it must not be.
        """
        if self._over:
            raise WorkflowMisuseError(
                f"{what} came after workflow run {self.run_id!r} had been left: "
                "a context ends with its function"
            )
        if self._fatal is not None:
            raise EndedRun(self.run_id) from self._fatal
        if self._emitter.refused is not None or self.lost.is_set():
            self.lost.set()
            raise AbandonedRun(self.run_id)
        if self.suspension is not None:
            raise SuspendedRun

    def check_outside_step(self, what: str) -> None:
        """Do as `check`, and refuse what a step must not do."""
        self.check(what)
        if self._step is not None:
            self.misuse(
                f"{what} was called inside step {self._step!r}: a step is one entry of the journal; call it "
                "in the workflow function, and hand the step what it needs"
            )

    def misuse(self, problem: str) -> NoReturn:
        """End the run with `WorkflowMisuseError`, whether or not the function lets it through."""
        error = WorkflowMisuseError(problem)
        if not self._over and self._fatal is None:
            self._fatal = error
        raise error

    def recall(self, request: Request) -> JournalEntry | None:
        """Return the journal's entry for what the function wants next; ``None`` means: do it."""
        limit = self._leased.run.deadlines.max_steps
        try:
            entry = recall(self.run_id, self._journal, self._index, request, max_steps=limit)
        except (WorkflowChangedError, MaxStepsError) as error:
            self._fatal = error
            raise
        return entry

    def advance(self) -> None:
        """Go past the present entry."""
        with self._counting:
            self._index += 1
            self._emitted = 0

    @contextmanager
    def in_step(self, name: str) -> Iterator[None]:
        """Have a step called ``name`` under way in the block; what it emits comes after all before it."""
        self._step = name
        with self._counting:
            seen_index, seen_count = self._leased.run.seen_emit
            if seen_index == self._index:
                # A step is done anew, and what it said before a crash may differ from what it says now.
                self._emitted = max(self._emitted, seen_count)
        try:
            yield
        finally:
            self._step = None

    def record_value(self, name: str, value: Any) -> Any:
        """Journal what a step returned, and return it as it will be replayed."""
        copied = wire_value(value, f"the value of step {name!r}", limit=self._limit)
        self._record(JournalEntry(index=self._index, kind=EntryKind.STEP, name=name, value=copied))
        return copied

    def record_error(self, name: str, error: Exception) -> dict[str, Any]:
        """Journal what a step raised, and return its record."""
        record = error_record(error, limit=self._limit)
        self._record(JournalEntry(index=self._index, kind=EntryKind.STEP, name=name, error=record))
        return record

    def suspend(self, suspension: Suspension) -> NoReturn:
        """Leave the function. The question is put once it has been left."""
        self.suspension = suspension
        raise SuspendedRun

    def new_question_id(self) -> str:
        """Return an id that no other question of the run has."""
        return f"{self._index}-{token_hex(8)}"

    def can_ask_again(self) -> bool:
        """Return whether nothing was done yet with the answer at the present entry."""
        return self._index == len(self._journal) - 1

    def emit(self, kind: str, data: Any, *, coalesce: bool, at_once: bool) -> bool:
        """Hand an event over; True if so many wait that `flush` is due."""
        if not isinstance(kind, str) or not 0 < len(kind) <= LONGEST_KIND or kind in RESERVED:
            raise WorkflowMisuseError(
                f"need a kind of 1 to {LONGEST_KIND} characters for an event of your own, got {kind!r}; "
                f"{' and '.join(sorted(RESERVED))} are the run's"
            )

        copied = json_value(data, f"event {kind!r}", limit=self._limit)
        with self._counting:
            self._emitted += 1
            mark = (self._index, self._emitted)
            if mark[0] < len(self._journal) or mark <= tuple(self._leased.run.seen_emit):
                return False  # said before
            # Under the lock, so that marks reach the emitter in their order.
            self._emitter.put(Emission(mark=mark, kind=kind, data=copied, coalesce=coalesce), at_once=at_once)
        return self._emitter.crowded

    def flush(self) -> None:
        """Send all events that wait."""
        self._leased.patiently(self._emitter.flush)

    def close(self) -> None:
        """Let nobody use the context any more."""
        self._over = True

    def ask(self, suspension: Suspension) -> None:
        """Put the question; the run waits from here on, and is not ours any more."""
        self.flush()
        entry = JournalEntry(index=self._index, kind=EntryKind.ASK, name=suspension.name)
        signal = Ask(
            token=self._leased.token,
            steps=self._index + 1,
            question=suspension.question,
            timeout=suspension.timeout,
        )
        self._leased.write(signal, entry)

    def succeed(self, value: Any) -> None:
        """End the run; `WorkflowChangedError` if the journal goes on, `PayloadError` for no JSON."""
        check_end(self.run_id, self._journal, self._index)
        result = wire_value(value, "the workflow's result", limit=self._limit)
        self.flush()
        self._leased.write(Succeed(token=self._leased.token, result=result))

    def fail(self, reason: FailureReason, error: BaseException) -> None:
        """End the run with ``reason``."""
        self.flush()
        record = error_record(error, limit=self._limit)
        self._leased.write(Fail(token=self._leased.token, reason=reason, error=record))

    def _record(self, entry: JournalEntry) -> None:
        self.flush()
        self._leased.write(Step(token=self._leased.token, steps=self._index + 1), entry)
        self.advance()
