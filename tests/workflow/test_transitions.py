"""What a signal makes of a run: every status, every signal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskservice.errors import (
    ConfigurationError,
    LeaseLostError,
    QuestionError,
    RunNotClaimableError,
    WorkflowExpiredError,
    WorkflowOverError,
)
from taskservice.workflow.model import (
    Deadlines,
    FailureReason,
    Lease,
    Question,
    WorkflowRun,
    WorkflowStatus,
)
from taskservice.workflow.transitions import (
    Answer,
    Ask,
    Claim,
    Fail,
    Overdue,
    Renew,
    Signal,
    Step,
    Stop,
    Succeed,
    decide,
)

NOW = 1000.0
QUESTION = Question(id="q1", prompt="approve?")
WAITING = WorkflowRun(
    id="r1",
    workflow="refund",
    owner="alice",
    args=[],
    kwargs={},
    created_at=NOW,
    updated_at=NOW,
    deadline=NOW + 10,
    deadlines=Deadlines(busy=10, input=50, stale=100, lease=15),
)
RUNNING = replace(
    WAITING,
    status=WorkflowStatus.RUNNING,
    version=1,
    lease=Lease(token=1, worker="w1", until=NOW + 15),
    deadline=NOW + 15,
)
INPUT = replace(
    RUNNING,
    status=WorkflowStatus.INPUT,
    question=QUESTION,
    lease=Lease(token=1),
    deadline=NOW + 50,
    version=2,
)
INPUT_OVER = replace(INPUT, status=WorkflowStatus.INPUT_OVER, question=None, deadline=NOW + 10)
SUCCESS = replace(RUNNING, status=WorkflowStatus.SUCCESS, deadline=None)
FAILED = replace(RUNNING, status=WorkflowStatus.FAILED, deadline=None, reason=FailureReason.STOPPED)
WORK: tuple[Signal, ...] = (
    Renew(token=1),
    Step(token=1, steps=1),
    Ask(token=1, steps=1, question=QUESTION),
    Succeed(token=1, result=1),
    Fail(token=1, reason=FailureReason.ERROR),
)
OUTSIDE: tuple[Signal, ...] = (Claim(worker="w2"), Answer(question_id="q1"), Stop(), Overdue())


@pytest.mark.parametrize("run", [SUCCESS, FAILED], ids=["SUCCESS", "FAILED"])
@pytest.mark.parametrize("signal", [*WORK, *OUTSIDE], ids=lambda signal: type(signal).__name__)
def test_nothing_happens_to_a_run_that_is_over(run: WorkflowRun, signal: Signal) -> None:
    with pytest.raises(WorkflowOverError) as caught:
        decide(run, signal, now=NOW + 1000)

    assert caught.value.status == run.status.value


@pytest.mark.parametrize("run", [WAITING, INPUT, INPUT_OVER], ids=lambda run: run.status.value)
@pytest.mark.parametrize("signal", WORK, ids=lambda signal: type(signal).__name__)
def test_nobody_works_on_a_run_that_is_not_running(run: WorkflowRun, signal: Signal) -> None:
    with pytest.raises(LeaseLostError):
        decide(run, signal, now=NOW)


@pytest.mark.parametrize("signal", WORK, ids=lambda signal: type(signal).__name__)
def test_nobody_works_under_an_old_token(signal: Signal) -> None:
    taken_over = replace(RUNNING, lease=replace(RUNNING.lease, token=2))

    with pytest.raises(LeaseLostError):
        decide(taken_over, signal, now=NOW)


@pytest.mark.parametrize("run", [WAITING, INPUT_OVER], ids=lambda run: run.status.value)
def test_a_waiting_run_is_claimed_until_its_deadline(run: WorkflowRun) -> None:
    change = decide(run, Claim(worker="w2"), now=NOW + 9)

    assert change.run.status is WorkflowStatus.RUNNING
    assert change.run.lease == Lease(token=run.lease.token + 1, worker="w2", until=NOW + 24)
    assert change.run.deadline == NOW + 24
    assert change.run.version == run.version + 1
    assert change.event == ("status", {"status": "RUNNING"})
    with pytest.raises(RunNotClaimableError):
        decide(run, Claim(worker="w2"), now=NOW + 10)


def test_a_running_run_is_claimed_when_its_lease_is_over() -> None:
    with pytest.raises(RunNotClaimableError):
        decide(RUNNING, Claim(worker="w2"), now=NOW + 14.9)

    change = decide(RUNNING, Claim(worker="w2"), now=NOW + 15)

    assert change.run.lease == Lease(token=2, worker="w2", until=NOW + 30)
    assert change.event is None


def test_a_run_that_waits_for_its_user_is_not_claimed() -> None:
    with pytest.raises(RunNotClaimableError):
        decide(INPUT, Claim(worker="w2"), now=NOW + 1000)


def test_a_step_is_news_and_a_renewal_is_none() -> None:
    stepped = decide(RUNNING, Step(token=1, steps=3), now=NOW + 5).run
    renewed = decide(RUNNING, Renew(token=1), now=NOW + 5).run

    assert (stepped.updated_at, stepped.steps, stepped.deadline) == (NOW + 5, 3, NOW + 20)
    assert (renewed.updated_at, renewed.steps, renewed.deadline) == (NOW, 0, NOW + 20)


def test_a_renewed_run_is_looked_at_when_it_would_be_stale() -> None:
    renewed = decide(RUNNING, Renew(token=1), now=NOW + 95).run

    assert (renewed.lease.until, renewed.deadline) == (NOW + 110, NOW + 100)


@pytest.mark.parametrize(("timeout", "deadline"), [(None, NOW + 51), (0, NOW + 1), (7, NOW + 8)])
def test_a_question_waits_as_long_as_it_may(timeout: float | None, deadline: float) -> None:
    change = decide(RUNNING, Ask(token=1, steps=1, question=QUESTION, timeout=timeout), now=NOW + 1)

    assert (change.run.status, change.run.deadline) == (WorkflowStatus.INPUT, deadline)
    assert change.run.question == QUESTION
    assert change.event == (
        "question",
        {"status": "INPUT", "id": "q1", "prompt": "approve?", "schema": None, "data": None},
    )


def test_an_answer_is_taken_until_the_deadline() -> None:
    change = decide(INPUT, Answer(question_id="q1"), now=NOW + 49)

    assert change.run.status is WorkflowStatus.INPUT_OVER
    assert change.run.deadline == pytest.approx(NOW + 49 + 10 / 3)  # when it is offered again
    assert change.run.question is None
    with pytest.raises(QuestionError):
        decide(INPUT, Answer(question_id="q1"), now=NOW + 50)


@pytest.mark.parametrize("run", [WAITING, RUNNING, INPUT_OVER], ids=lambda run: run.status.value)
def test_an_answer_to_no_question_is_refused(run: WorkflowRun) -> None:
    with pytest.raises(QuestionError) as caught:
        decide(run, Answer(question_id="q1"), now=NOW)

    assert caught.value.open_id is None


def test_an_answer_to_another_question_names_the_open_one() -> None:
    with pytest.raises(QuestionError) as caught:
        decide(INPUT, Answer(question_id="q0"), now=NOW)

    assert caught.value.open_id == "q1"


@pytest.mark.parametrize("run", [WAITING, RUNNING, INPUT, INPUT_OVER], ids=lambda run: run.status.value)
def test_a_run_is_stopped_wherever_it_stands(run: WorkflowRun) -> None:
    change = decide(run, Stop(), now=NOW + 1000)

    assert (change.run.status, change.run.reason) == (WorkflowStatus.FAILED, FailureReason.STOPPED)
    assert change.run.deadline is None
    assert change.run.question is None
    assert change.run.lease.token > run.lease.token
    assert change.event == ("status", {"status": "FAILED", "reason": "stopped", "error": None})


def test_how_a_run_ends_is_told() -> None:
    succeeded = decide(RUNNING, Succeed(token=1, result={"paid": 1}), now=NOW)
    error = {"module": "shop", "type": "Boom", "args": []}
    failed = decide(RUNNING, Fail(token=1, reason=FailureReason.ERROR, error=error), now=NOW)

    assert succeeded.event == ("status", {"status": "SUCCESS", "result": {"paid": 1}})
    assert failed.event == ("status", {"status": "FAILED", "reason": "error", "error": error})
    assert failed.run.error == error


@pytest.mark.parametrize(
    ("run", "after", "reason"),
    [
        (WAITING, 10, FailureReason.BUSY),
        (INPUT_OVER, 10, FailureReason.BUSY),
        (INPUT, 50, FailureReason.INPUT_TIMEOUT),
        (RUNNING, 100, FailureReason.STALE),
    ],
)
def test_an_overdue_run_fails_with_its_reason(run: WorkflowRun, after: float, reason: FailureReason) -> None:
    change = decide(run, Overdue(), now=NOW + after)

    assert (change.run.status, change.run.reason) == (WorkflowStatus.FAILED, reason)
    assert not change.orphaned


@pytest.mark.parametrize("run", [WAITING, RUNNING, INPUT, INPUT_OVER], ids=lambda run: run.status.value)
def test_a_run_is_not_overdue_before_its_deadline(run: WorkflowRun) -> None:
    with pytest.raises(RunNotClaimableError):
        decide(run, Overdue(), now=NOW + 9.9)


SHORT = Deadlines(busy=10, input=50, stale=100, lease=15, data=5)


@pytest.mark.parametrize("run", [WAITING, INPUT, INPUT_OVER, RUNNING], ids=lambda run: run.status.value)
def test_a_run_without_news_expires_with_its_data(run: WorkflowRun) -> None:
    kept = replace(run, deadlines=SHORT, deadline=NOW + 5)

    change = decide(kept, Overdue(), now=NOW + 5)

    assert (change.run.status, change.run.reason) == (WorkflowStatus.FAILED, FailureReason.EXPIRED)
    assert change.event == ("status", {"status": "FAILED", "reason": "expired", "error": None})
    assert change.run.is_gone(NOW + 5)


@pytest.mark.parametrize("run", [WAITING, INPUT, INPUT_OVER], ids=lambda run: run.status.value)
@pytest.mark.parametrize("signal", OUTSIDE[:-1], ids=lambda signal: type(signal).__name__)
def test_data_that_is_gone_by_the_clock_is_gone_before_anybody_sweeps(
    run: WorkflowRun, signal: Signal
) -> None:
    kept = replace(run, deadlines=SHORT)

    with pytest.raises(WorkflowExpiredError):
        decide(kept, signal, now=NOW + 5)
    assert not kept.is_gone(NOW + 4.9)


def test_whoever_executes_a_run_has_news_until_somebody_sweeps() -> None:
    kept = replace(RUNNING, deadlines=SHORT)

    change = decide(kept, Step(token=1, steps=1), now=NOW + 5)

    assert change.run.gone_at == NOW + 10
    with pytest.raises(WorkflowExpiredError):
        decide(kept, Claim(worker="w2"), now=NOW + 15)


@pytest.mark.parametrize(
    ("run", "signal"),
    [
        (WAITING, Claim(worker="w1")),
        (RUNNING, Step(token=1, steps=1)),
        (RUNNING, Renew(token=1)),
        (RUNNING, Ask(token=1, steps=1, question=QUESTION, timeout=40)),
        (INPUT, Answer(question_id="q1")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_is_looked_at_when_its_data_would_expire(run: WorkflowRun, signal: Signal) -> None:
    kept = replace(run, deadlines=replace(SHORT, data=2))

    change = decide(kept, signal, now=NOW + 1)

    assert change.run.deadline == change.run.updated_at + 2


@pytest.mark.parametrize(("data", "gone_at"), [(None, NOW + 70), (20.0, NOW + 20), (90.0, NOW + 70)])
def test_what_is_over_is_kept_as_long_as_both_allow(data: float | None, gone_at: float) -> None:
    over = replace(SUCCESS, deadlines=Deadlines(kept=70, data=data))

    assert over.gone_at == gone_at


def test_a_run_whose_worker_is_gone_is_orphaned_and_looked_at_again() -> None:
    change = decide(RUNNING, Overdue(), now=NOW + 20)

    assert change.orphaned
    assert change.event is None
    assert change.run.status is WorkflowStatus.RUNNING
    assert (change.run.lease, change.run.deadline) == (RUNNING.lease, NOW + 35)


def test_a_run_that_emitted_before_it_was_stale_has_its_worker_still() -> None:
    renewed = decide(RUNNING, Renew(token=1), now=NOW + 95).run
    emitted = replace(renewed, updated_at=NOW + 98)

    change = decide(emitted, Overdue(), now=NOW + 100)

    assert not change.orphaned
    assert change.run.deadline == NOW + 115


@pytest.mark.parametrize("wrong", [{"busy": 0}, {"lease": -1}, {"stale": float("inf")}, {"max_events": 0}])
def test_deadlines_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Deadlines(**wrong)  # type: ignore[arg-type] # one of each kind
