"""Control over workflow runs, over every world; what a world cannot show must be refused, not played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.drivers.celery_sim import CelerySimDriver
from pytest_taskservice.errors import HarnessError, UnknownNameError
from pytest_taskservice.history import EventKind
from taskservice.errors import QuestionError, WorkflowOverError
from taskservice.workflow.definitions import default_workflows
from tests.contract.flow_stories import (
    app,
    await_history,
    await_status,
    code_of,
    passed,
    skip_without_time,
    start,
    status,
    until,
)

if TYPE_CHECKING:
    from pytest_taskservice.drivers.base import StoryDriver, WorkflowControl


def test_a_workflow_of_steps_runs_and_returns(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "quick")
    await_status(driver, control, run, "SUCCESS")

    outcome = control.outcome(run)

    assert outcome is not None
    assert (outcome.result, outcome.reason, outcome.error) == ({"done": True}, "", "")


def test_without_a_return_the_last_answer_is_returned(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "approval")
    await_status(driver, control, run, "INPUT")
    control.answer(run, {"ok": 1})
    await_status(driver, control, run, "SUCCESS")
    silent = start(control, "silent")
    await_status(driver, control, silent, "SUCCESS")

    answered, told = control.outcome(run), control.outcome(silent)

    assert answered is not None
    assert told is not None
    assert (answered.result, told.result) == ({"ok": 1}, None)


def test_a_failing_step_ends_it_with_its_text(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "failing")
    await_status(driver, control, run, "FAILED")

    outcome = control.outcome(run)

    assert outcome is not None
    assert (outcome.reason, outcome.error, outcome.message) == ("error", "StoryFailedError", "no stock")


def test_the_history_has_all_that_clients_see(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "telling")
    await_status(driver, control, run, "INPUT")
    control.answer(run, True)
    await_status(driver, control, run, "SUCCESS")

    events = await_history(driver, run, 8)

    assert passed(events) == ["WAITING", "RUNNING", "INPUT", "INPUT_OVER", "RUNNING", "SUCCESS"]
    assert {event.task for event in events} == {"telling"}
    told = next(event for event in events if event.kind is EventKind.TOLD)
    assert (told.detail["kind"], told.detail["data"]) == ("progress", {"percent": 50})
    asked = next(event for event in events if event.kind is EventKind.ASKED)
    assert (asked.detail["prompt"], asked.detail["id"]) == ("approve", 4)
    assert [event.detail["id"] for event in events] == [1, 2, 3, 4, 4, 5, 6, 7]
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_a_client_reads_on_behind_what_it_has_seen(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "telling")
    await_status(driver, control, run, "INPUT")

    first = control.events(run)
    rest = control.events(run, after=2)

    assert [(event.id, event.kind) for event in first] == [
        (1, "status"),
        (2, "status"),
        (3, "progress"),
        (4, "question"),
    ]
    assert [event.id for event in rest] == [3, 4]
    assert control.events(run, after=4) == []


def test_a_workflow_of_the_app_gets_its_arguments(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "refund", 7, reason="late")
    await_status(driver, control, run, "INPUT")
    control.answer(run, True)
    await_status(driver, control, run, "SUCCESS")

    outcome = control.outcome(run)

    assert outcome is not None
    assert outcome.result == {"paid": 7, "reason": "late"}
    assert {event.task for event in await_history(driver, run, 7)} == {"refund"}


def test_an_async_workflow_of_the_app_runs(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "refund_async", 7)
    await_status(driver, control, run, "INPUT")
    control.answer(run, True)
    await_status(driver, control, run, "SUCCESS")

    outcome = control.outcome(run)

    assert outcome is not None
    assert outcome.result == 7


def test_an_unknown_workflow_is_told_with_the_nearest(control: WorkflowControl) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'approval'"):
        start(control, "aproval")


def test_what_is_made_of_steps_takes_no_arguments(control: WorkflowControl) -> None:
    with pytest.raises(HarnessError, match=r"story\.scenario\.yaml:1:1: .*takes no arguments"):
        start(control, "approval", 7)


def test_a_question_is_answered_once(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "twice")
    await_status(driver, control, run, "INPUT")
    outcome = control.outcome(run)
    assert outcome is not None
    control.answer(run, 1, question=outcome.question)

    assert code_of(lambda: control.answer(run, 2, question=outcome.question)) == QuestionError.code

    until(
        driver, lambda: (control.outcome(run) or outcome).question not in {"", outcome.question}, "a question"
    )
    control.answer(run, 3)
    await_status(driver, control, run, "SUCCESS")
    last = control.outcome(run)
    assert last is not None
    assert last.result == 3


def test_of_racing_answers_one_is_taken(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "approval")
    await_status(driver, control, run, "INPUT")
    outcome = control.outcome(run)
    assert outcome is not None
    codes: list[str] = []

    def answer(value: int) -> None:
        codes.append(code_of(lambda: control.answer(run, value, question=outcome.question)))

    race(driver, [partial(answer, value) for value in range(4)])

    await_status(driver, control, run, "SUCCESS")
    assert sorted(code == "" for code in codes) == [False, False, False, True]


def race(driver: StoryDriver, acts: list[Callable[[], None]]) -> None:
    """Do all of ``acts`` at once: in threads, or in a simulation's own moment."""
    if isinstance(driver, CelerySimDriver):
        for act in acts:
            driver.world.simulation.after(0.0, act)
        driver.settle(timeout=20)
        return
    threads = [threading.Thread(target=act) for act in acts]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)


def test_stop_ends_a_run_that_waits(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "approval")
    await_status(driver, control, run, "INPUT")

    control.stop(run)

    outcome = control.outcome(run)
    assert outcome is not None
    assert (outcome.status, outcome.reason) == ("FAILED", "stopped")
    for late in (lambda: control.stop(run), lambda: control.answer(run, True)):
        assert code_of(late) == WorkflowOverError.code
    assert passed(await_history(driver, run, 5))[-1] == "FAILED"


def test_a_run_that_is_stopped_while_it_works_never_succeeds(
    driver: StoryDriver, control: WorkflowControl
) -> None:
    skip_without_time(driver)
    run = start(control, "slow")
    await_status(driver, control, run, "RUNNING")

    control.stop(run)
    driver.settle(timeout=20)

    assert passed(await_history(driver, run, 3)) == ["WAITING", "RUNNING", "FAILED"]


def test_resuming_what_needs_nobody_does_nothing(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "approval")
    await_status(driver, control, run, "INPUT")

    control.resume(run)
    driver.settle(timeout=20)

    assert status(control, run) == "INPUT"
    assert passed(await_history(driver, run, 4)) == ["WAITING", "RUNNING", "INPUT"]


def test_of_a_run_that_never_was_nothing_is_known(control: WorkflowControl) -> None:
    acts: Mapping[str, Callable[[], object]] = {
        "input": lambda: control.answer("nobody", True),
        "stop": lambda: control.stop("nobody"),
        "continue": lambda: control.resume("nobody"),
        "events": lambda: control.events("nobody"),
    }

    assert {name: code_of(act) for name, act in acts.items()} == dict.fromkeys(acts, "workflow_expired")
    assert control.outcome("nobody") is None
    assert control.stored_keys("nobody") == 0


def test_a_run_has_its_keys(driver: StoryDriver, control: WorkflowControl) -> None:
    run = start(control, "approval")
    await_status(driver, control, run, "INPUT")

    assert control.stored_keys(run) == 3


def test_what_a_run_tells_is_heard_before_its_next_step_ends(
    driver: StoryDriver, control: WorkflowControl
) -> None:
    run = start(control, "chatty")
    await_status(driver, control, run, "SUCCESS")

    events = await_history(driver, run, 6)

    kinds = [event.kind for event in events]
    assert kinds == [*[EventKind.CHANGED] * 2, *[EventKind.TOLD] * 3, EventKind.CHANGED]
    assert [event.detail["data"]["n"] for event in events[2:5]] == [0, 1, 2]
    assert events[4].at - events[1].at < 0.7
    assert events[5].at - events[1].at >= 1.0


def test_the_users_registry_and_app_are_as_before(
    driver: StoryDriver, open_stage: Callable[..., WorkflowControl]
) -> None:
    before, threads = default_workflows.names(), threading.active_count()
    control = open_stage()
    run = start(control, "quick")
    await_status(driver, control, run, "SUCCESS")

    driver.reset()

    assert default_workflows.names() == before
    assert not [name for name in app.tasks if name.endswith("_workflow")]
    until_real(lambda: threading.active_count() <= threads, "threads to end")
    driver.begin(app, {})


def until_real(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < end, what
        threading.Event().wait(0.01)
