"""The status machine of workflow runs, and the only place that knows it. Pure.

`decide` says what a signal makes of a run; a store writes that if the run is still as it was.

    WAITING --claim--> RUNNING --ask--> INPUT --answer--> INPUT_OVER --claim--> RUNNING
    RUNNING --succeed--> SUCCESS        any but the last two --fail, stop, overdue--> FAILED

A run of which nothing was heard for as long as its data is kept ends as FAILED, expired, and is gone with
that; until somebody sweeps it is taken for gone.

A run that is RUNNING may be claimed again once its lease is over: its worker is gone. The new lease
has a larger token, and what the old worker still wants to write is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from taskservice.errors import (
    LeaseLostError,
    QuestionError,
    RunNotClaimableError,
    WorkflowExpiredError,
    WorkflowOverError,
)
from taskservice.workflow.model import FailureReason, Lease, Question, WorkflowRun, WorkflowStatus

__all__ = [
    "Answer",
    "Ask",
    "Change",
    "Claim",
    "Fail",
    "Overdue",
    "Renew",
    "Signal",
    "Step",
    "Stop",
    "Succeed",
    "decide",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A worker takes the run up."""

    worker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Renew:
    """The worker that has the run says that it still does."""

    token: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The function got one entry further in its journal, which has ``steps`` now."""

    token: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """The function waits for an answer, ``timeout`` seconds at most if given."""

    token: int
    steps: int
    question: Question
    timeout: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Somebody answered question ``question_id``."""

    question_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Succeed:
    """The function returned."""

    token: int
    result: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Fail:
    """The function cannot go on; ``error`` is ``{"module", "type", "args"}``."""

    token: int
    reason: FailureReason
    error: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Somebody wants it to end, whatever it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overdue:
    """Its deadline has passed."""


MESSAGES: Final = 3
"""How often a run that waits for a worker is offered to one before it is BUSY."""
Signal: TypeAlias = Claim | Renew | Step | Ask | Answer | Succeed | Fail | Stop | Overdue


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What a signal makes of a run. ``event`` is the kind and data that clients see, if they see one.

    ``orphaned`` means that its worker or its message is gone, and another must be asked to take it up.
    """

    run: WorkflowRun
    event: tuple[str, dict[str, Any]] | None = None
    orphaned: bool = False


def decide(run: WorkflowRun, signal: Signal, *, now: float) -> Change:
    """Return what becomes of ``run`` at ``now``.

    `WorkflowOverError` for a run that is over, `LeaseLostError` for a worker that has lost it,
    `RunNotClaimableError` for one that somebody has or that waits for its user, `QuestionError` for an
    answer that nobody asked for or that has been given, `WorkflowExpiredError` for data that is gone.
    """
    if not isinstance(signal, Overdue) and run.is_gone(now):
        raise WorkflowExpiredError(run.id)
    if run.status.final:
        raise WorkflowOverError(run.id, run.status, _code(run.reason))

    outside = _FROM_OUTSIDE.get(type(signal))
    if outside is not None:
        return outside(run, signal, now)

    token = getattr(signal, "token", None)
    if run.status is not WorkflowStatus.RUNNING or run.lease.token != token:
        raise LeaseLostError(run.id, -1 if token is None else token)

    return _FROM_WORKER[type(signal)](run, signal, now)


def _claim(run: WorkflowRun, signal: Claim, now: float) -> Change:
    lapsed = run.status is WorkflowStatus.RUNNING and run.lease.until <= now
    if run.status not in _WAITING and not lapsed:
        raise RunNotClaimableError(run.id, run.status)
    if lapsed and _is_expired(run, now):
        raise WorkflowExpiredError(run.id)
    if run.status in _WAITING and _busy_at(run) <= now:
        # Too late by the clock is too late, whether or not somebody has swept.
        raise RunNotClaimableError(run.id, run.status)

    taken = replace(run, status=WorkflowStatus.RUNNING, updated_at=now)
    claimed = _leased(taken, Lease(token=run.lease.token + 1, worker=signal.worker), now)
    return Change(run=claimed, event=None if lapsed else _status(claimed))


def _ask(run: WorkflowRun, signal: Ask, now: float) -> Change:
    seconds = run.deadlines.input if signal.timeout is None else signal.timeout
    asked = replace(
        run,
        status=WorkflowStatus.INPUT,
        question=signal.question,
        steps=signal.steps,
        lease=replace(run.lease, until=0.0),
        deadline=_before_gone(run, now + seconds, news=now),
        updated_at=now,
        version=run.version + 1,
    )
    data = {"status": asked.status.value, **signal.question.as_data()}
    return Change(run=asked, event=("question", data))


def _answer(run: WorkflowRun, signal: Answer, now: float) -> Change:
    if run.status is not WorkflowStatus.INPUT or run.question is None:
        raise QuestionError(run.id, signal.question_id, None)
    if run.question.id != signal.question_id:
        raise QuestionError(run.id, signal.question_id, run.question.id)
    if run.deadline is not None and run.deadline <= now:
        raise QuestionError(run.id, signal.question_id, None)

    answered = replace(
        run,
        status=WorkflowStatus.INPUT_OVER,
        question=None,
        deadline=_before_gone(run, now + run.deadlines.busy / MESSAGES, news=now),
        updated_at=now,
        version=run.version + 1,
    )
    return Change(run=answered, event=_status(answered))


def _stop(run: WorkflowRun, _: Stop, now: float) -> Change:
    return _end(replace(run, reason=FailureReason.STOPPED), WorkflowStatus.FAILED, now)


def _renew(run: WorkflowRun, _: Renew, now: float) -> Change:
    return Change(run=_leased(run, run.lease, now))


def _step(run: WorkflowRun, signal: Step, now: float) -> Change:
    return Change(run=_leased(replace(run, steps=signal.steps, updated_at=now), run.lease, now))


def _succeed(run: WorkflowRun, signal: Succeed, now: float) -> Change:
    return _end(replace(run, result=signal.result), WorkflowStatus.SUCCESS, now)


def _fail(run: WorkflowRun, signal: Fail, now: float) -> Change:
    return _end(replace(run, reason=signal.reason, error=signal.error), WorkflowStatus.FAILED, now)


def _overdue(run: WorkflowRun, _: Overdue, now: float) -> Change:
    if run.deadline is None or run.deadline > now:
        # Swept on what somebody saw a moment ago.
        raise RunNotClaimableError(run.id, run.status)
    if _is_expired(run, now):
        return _end(replace(run, reason=FailureReason.EXPIRED), WorkflowStatus.FAILED, now)
    if run.status in _WAITING and _busy_at(run) <= now:
        return _end(replace(run, reason=FailureReason.BUSY), WorkflowStatus.FAILED, now)
    if run.status in _WAITING:
        # Its message may have died with a worker that had it and had not yet claimed the run.
        again = min(now + run.deadlines.busy / MESSAGES, _busy_at(run))
        again = _before_gone(run, again, news=run.updated_at)
        return Change(run=replace(run, deadline=again, version=run.version + 1), orphaned=True)
    if run.status is WorkflowStatus.INPUT:
        return _end(replace(run, reason=FailureReason.INPUT_TIMEOUT), WorkflowStatus.FAILED, now)
    if run.updated_at + run.deadlines.stale <= now:
        return _end(replace(run, reason=FailureReason.STALE), WorkflowStatus.FAILED, now)

    # Looked at again after another lease, in case nobody takes it up. One whose lease is not over was
    # about to be stale, until its function emitted something.
    left = replace(run, deadline=_earlier(run, now), version=run.version + 1)
    return Change(run=left, orphaned=run.lease.until <= now)


def _end(run: WorkflowRun, status: WorkflowStatus, now: float) -> Change:
    ended = replace(
        run,
        status=status,
        question=None,
        # Whoever still has it must not write any more.
        lease=Lease(token=run.lease.token + 1),
        deadline=None,
        updated_at=now,
        version=run.version + 1,
    )
    return Change(run=ended, event=_status(ended))


def _leased(run: WorkflowRun, lease: Lease, now: float) -> WorkflowRun:
    leased = replace(run, lease=replace(lease, until=now + run.deadlines.lease), version=run.version + 1)
    return replace(leased, deadline=_earlier(leased, now))


def _earlier(run: WorkflowRun, now: float) -> float:
    look = min(now + run.deadlines.lease, run.updated_at + run.deadlines.stale)
    return _before_gone(run, look, news=run.updated_at)


def _before_gone(run: WorkflowRun, deadline: float, *, news: float) -> float:
    kept = run.deadlines.data
    return deadline if kept is None else min(deadline, news + kept)


def _is_expired(run: WorkflowRun, now: float) -> bool:
    return run.gone_at is not None and run.gone_at <= now


def _busy_at(run: WorkflowRun) -> float:
    return run.updated_at + run.deadlines.busy


def _status(run: WorkflowRun) -> tuple[str, dict[str, Any]]:
    data: dict[str, Any] = {"status": run.status.value}
    if run.status is WorkflowStatus.SUCCESS:
        data["result"] = run.result
    if run.reason is not None:
        data |= {"reason": run.reason.value, "error": run.error}
    return "status", data


def _code(reason: FailureReason | None) -> str:
    return "" if reason is None else reason.value


_WAITING: Final = frozenset({WorkflowStatus.WAITING, WorkflowStatus.INPUT_OVER})
_FROM_OUTSIDE: Final[dict[type, Callable[[WorkflowRun, Any, float], Change]]] = {
    Answer: _answer,
    Claim: _claim,
    Overdue: _overdue,
    Stop: _stop,
}
_FROM_WORKER: Final[dict[type, Callable[[WorkflowRun, Any, float], Change]]] = {
    Ask: _ask,
    Fail: _fail,
    Renew: _renew,
    Step: _step,
    Succeed: _succeed,
}
