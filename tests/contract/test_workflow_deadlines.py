"""Deadlines of workflow runs, over every world: each passes in the world's own time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.drivers.base import Capability, CapabilityError, StoryDriver, WorkflowControl
from pytest_taskservice.history import EventKind
from taskservice.errors import WorkflowExpiredError
from tests.contract.flow_stories import (
    ASK,
    SHORT,
    await_history,
    await_status,
    code_of,
    flow,
    has_virtual_time,
    history,
    passed,
    skip_without_time,
    start,
    status,
    until,
)

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Workflow


def test_a_run_that_no_slot_takes_in_time_is_busy(
    driver: StoryDriver, open_stage: Callable[..., WorkflowControl]
) -> None:
    if not driver.name.startswith("celery") or driver.name == "celery-eager":
        pytest.skip(f"{driver.name} has no slots that workflow runs could wait for")
    control = open_stage(busy_after=1.0)
    hogs = [start(control, "slow") for _ in range(2)]
    for hog in hogs:
        await_status(driver, control, hog, "RUNNING")

    run = start(control, "quick")
    await_status(driver, control, run, "FAILED")
    driver.settle(timeout=20)

    outcome = control.outcome(run)
    assert outcome is not None
    assert outcome.reason == "busy"
    assert passed(await_history(driver, run, 2)) == ["WAITING", "FAILED"]
    assert [status(control, hog) for hog in hogs] == ["SUCCESS", "SUCCESS"]


def test_a_run_that_is_silent_for_too_long_is_stale(
    driver: StoryDriver, open_stage: Callable[..., WorkflowControl]
) -> None:
    skip_without_time(driver)
    lasts, name = (10.0, "slower") if has_virtual_time(driver) else (1.0, "slow")
    control = open_stage(stale_after=lasts)
    run = start(control, name)
    await_status(driver, control, run, "FAILED")
    if has_virtual_time(driver):
        driver.clock().advance(seconds=40)
    driver.settle(timeout=20)

    outcome = control.outcome(run)

    assert outcome is not None
    assert outcome.reason == "stale"
    assert passed(await_history(driver, run, 3)) == ["WAITING", "RUNNING", "FAILED"]


def test_a_question_of_its_own_patience_times_out(
    driver: StoryDriver, open_stage: Callable[..., WorkflowControl]
) -> None:
    skip_without_time(driver)
    control = open_stage([SHORT])
    run = start(control, "short")
    await_status(driver, control, run, "FAILED")

    outcome = control.outcome(run)

    assert outcome is not None
    assert outcome.reason == "input_timeout"
    asked, ended = (event.at for event in await_history(driver, run, 5)[-2:])
    assert 1.0 <= ended - asked < 3.5


def test_the_storys_deadline_stands_over_a_workflows_own(
    driver: StoryDriver, open_stage: Callable[..., WorkflowControl]
) -> None:
    skip_without_time(driver)
    control = open_stage(input_timeout=0.5)
    run = start(control, "patient")
    await_status(driver, control, run, "FAILED", within=4.5)

    outcome = control.outcome(run)

    assert outcome is not None
    assert outcome.reason == "input_timeout"


def test_what_the_story_leaves_open_is_the_workflows_own(
    driver: StoryDriver, open_stage: Callable[..., WorkflowControl]
) -> None:
    if not has_virtual_time(driver):
        pytest.skip(f"{driver.name} would wait for five seconds of real time")
    control = open_stage(busy_after=3.0)
    run = start(control, "patient")
    await_status(driver, control, run, "FAILED")

    asked, ended = (event.at for event in history(driver, run)[-2:])

    assert 5.0 <= ended - asked < 6.5


def test_when_the_data_has_expired_nothing_is_left(
    driver: StoryDriver, open_stage: Callable[..., WorkflowControl]
) -> None:
    skip_without_time(driver)
    lasts = 3600.0 if has_virtual_time(driver) else 1.0
    control = open_stage(data_ttl=lasts)
    run = start(control, "approval")
    await_status(driver, control, run, "INPUT")
    if has_virtual_time(driver):
        driver.clock().advance(seconds=3000)
        assert status(control, run) == "INPUT"
        driver.clock().advance(seconds=1200)

    until(driver, lambda: control.stored_keys(run) == 0, "the data to be gone", within=6)

    acts: Mapping[str, Callable[[], object]] = {
        "input": lambda: control.answer(run, True),
        "stop": lambda: control.stop(run),
        "continue": lambda: control.resume(run),
    }
    assert {name: code_of(act) for name, act in acts.items()} == dict.fromkeys(
        acts, WorkflowExpiredError.code
    )
    assert control.outcome(run) is None
    events = await_history(driver, run, 5)
    assert passed(events) == ["WAITING", "RUNNING", "INPUT", "FAILED"]
    assert events[-1].detail["reason"] == "expired"
    assert lasts <= events[-1].at - events[-2].at < lasts + 3


def test_a_long_step_keeps_its_lease(driver: StoryDriver, control: WorkflowControl) -> None:
    if not has_virtual_time(driver):
        pytest.skip(f"{driver.name} would wait for forty seconds of real time")
    run = start(control, "slower")
    await_status(driver, control, run, "SUCCESS", within=45)

    assert passed(history(driver, run)) == ["WAITING", "RUNNING", "SUCCESS"]
    executions = [
        event
        for event in driver.log()
        if event.kind is EventKind.STARTED and event.task == "taskservice.execute_workflow"
    ]
    assert len(executions) == 1


@pytest.mark.parametrize(
    ("flows", "config", "what"),
    [([flow("approval", ASK)], {"data_ttl": 60.0}, "data_ttl"), ([SHORT], {}, "timeout")],
    ids=["data_ttl", "timeout"],
)
def test_where_no_time_passes_deadlines_are_refused(
    driver: StoryDriver,
    open_stage: Callable[..., WorkflowControl],
    flows: list[Workflow],
    config: dict[str, float],
    what: str,
) -> None:
    if driver.name != "celery-eager":
        assert open_stage(flows, **config)
        return

    with pytest.raises(CapabilityError, match=f"celery-eager cannot: {Capability.WORKFLOWS} .*{what}"):
        open_stage(flows, **config)
    # Seen, and not the plugin's business: it would skip this test.
    driver.refused.clear()
