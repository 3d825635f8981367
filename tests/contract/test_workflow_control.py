"""Control over workflow runs, over every world; what a world cannot show must be refused, not played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from pytest_taskservice.drivers.base import Capability, CapabilityError, Stage, StoryDriver, WorkflowControl
from pytest_taskservice.drivers.celery_sim import CelerySimDriver
from pytest_taskservice.errors import HarnessError, UnknownNameError
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.model import Config, Workflow, WorkflowStep
from taskservice.errors import QuestionError, WorkflowError, WorkflowExpiredError, WorkflowOverError
from taskservice.workflow.definitions import default_workflows

if TYPE_CHECKING:
    from pytest_taskservice.history import Event

app = Celery("flows", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")

MARK = Mark(path="story.scenario.yaml", line=1, column=1)
ASK = WorkflowStep(kind="ask", text="approve")


def flow(name: str, *steps: WorkflowStep, call: str | None = None) -> Workflow:
    return Workflow(name=name, mark=MARK, steps=steps, call=call)


def run_for(seconds: float) -> WorkflowStep:
    return WorkflowStep(kind="run", seconds=seconds)


FLOWS = [
    flow("approval", ASK),
    flow("quick", run_for(0.01), WorkflowStep(kind="return", value={"done": True})),
    flow("telling", WorkflowStep(kind="emit", text="progress", value={"percent": 50}), ASK),
    flow("failing", run_for(0.01), WorkflowStep(kind="fail", text="no stock")),
    flow("twice", ASK, WorkflowStep(kind="ask", text="really?")),
    flow("silent", WorkflowStep(kind="emit", value={"a": 1})),
    flow("slow", run_for(3.0)),
    flow("slower", run_for(40.0)),
    flow("chatty", *[WorkflowStep(kind="emit", value={"n": n}) for n in range(3)], run_for(1.0)),
    flow("refund", call="tests.contract.story_flows.refund"),
    flow("refund_async", call="contract.refund_async"),
    flow("patient", call="tests.contract.story_flows.patient"),
]

SHORT = flow("short", WorkflowStep(kind="ask", text="quick!", seconds=1.0))


@pytest.fixture
def open_stage(story_driver: StoryDriver) -> Callable[..., WorkflowControl]:
    """Begins a story with these workflows and a configuration of one's own."""

    def begin(flows: list[Workflow] | None = None, **config: Any) -> WorkflowControl:
        story_driver.set_stage(
            Stage(config=Config(**config), workflows={each.name: each for each in flows or FLOWS})
        )
        story_driver.begin(app, {})
        return story_driver.workflows()

    return begin


@pytest.fixture
def driver(story_driver: StoryDriver) -> StoryDriver:
    """The driver of the world that the test runs in."""
    return story_driver


@pytest.fixture
def control(open_stage: Callable[..., WorkflowControl]) -> WorkflowControl:
    """Control in a story that says nothing of deadlines."""
    return open_stage()


def start(control: WorkflowControl, name: str, *args: Any, **kwargs: Any) -> str:
    return control.start(name, args, kwargs)


def has_virtual_time(driver: StoryDriver) -> bool:
    return driver.cannot(Capability.CLOCK) is None


def until(driver: StoryDriver, ready: Callable[[], bool], what: str, *, within: float = 20.0) -> None:
    """Let time pass until ``ready``: the world's own, or a little real time."""
    virtual = has_virtual_time(driver)
    clock: Callable[[], float] = driver.clock().monotonic if virtual else time.monotonic
    end = clock() + within
    while not ready():
        assert clock() < end, f"{what}: not within {within:g} s"
        if virtual:
            driver.clock().advance(seconds=0.02)
        else:
            threading.Event().wait(0.01)


def status(control: WorkflowControl, run: str) -> str:
    outcome = control.outcome(run)
    return "" if outcome is None else outcome.status


def await_status(
    driver: StoryDriver, control: WorkflowControl, run: str, wanted: str, **options: Any
) -> None:
    until(driver, lambda: status(control, run) == wanted, f"{run} to be {wanted}", **options)


def history(driver: StoryDriver, run: str) -> list[Event]:
    return list(driver.log().of(run))


def await_history(driver: StoryDriver, run: str, count: int) -> list[Event]:
    until(driver, lambda: len(history(driver, run)) >= count, f"{count} events in the history")
    return history(driver, run)


def passed(events: list[Event]) -> list[str]:
    return [str(event.detail["status"]) for event in events if event.kind is EventKind.CHANGED]


def code_of(act: Callable[[], object]) -> str:
    try:
        act()
    except WorkflowError as error:
        return error.code
    return ""


def skip_without_time(driver: StoryDriver) -> None:
    if driver.name == "celery-eager":
        pytest.skip("eager mode sweeps nothing: no deadline passes")


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
