"""Workflow runs in a simulation: one seed tells one story, and a worker that dies is taken for dead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from pytest_taskservice.drivers.base import Stage, TaskCall
from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.drivers.synthetic import SYNTHETIC, register
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.behaviour import Behaviour
from pytest_taskservice.scenario.model import Config, Workflow, WorkflowStep
from taskservice.errors import WorkflowError

MARK = Mark(path="story.scenario.yaml", line=1, column=1)
SEEDS = range(20)


def flow(name: str, *steps: WorkflowStep) -> Workflow:
    return Workflow(name=name, mark=MARK, steps=steps)


FLOWS = (
    flow("approval", WorkflowStep(kind="ask", text="approve")),
    flow("quick", WorkflowStep(kind="run", seconds=1.0)),
    flow("slow", WorkflowStep(kind="run", seconds=60.0)),
)


@pytest.fixture(scope="module")
def app() -> Celery:
    """An app that has nothing but the task that plays behaviours."""
    made = Celery("simulated flows", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")
    register(made)
    return made


@pytest.fixture
def driver() -> Iterator[CelerySimDriver]:
    """A driver of our own, so that each story has a seed of its own."""
    made = CelerySimDriver(options=SimulatorOptions())
    yield made
    made.close()


def begin(driver: CelerySimDriver, app: Celery, *, seed: int = 0, config: Config | None = None) -> None:
    driver.reset()
    driver.seed = seed
    driver.set_stage(Stage(config=config or Config(), workflows={each.name: each for each in FLOWS}))
    driver.begin(app, {})


def passed(driver: CelerySimDriver, run: str) -> list[str]:
    return [event.detail["status"] for event in driver.log().of(run) if event.kind is EventKind.CHANGED]


def test_a_run_that_no_worker_takes_in_time_is_busy_and_never_runs(
    driver: CelerySimDriver, app: Celery
) -> None:
    begin(driver, app, config=Config(busy_after=10.0))
    driver.start_worker(concurrency=1)
    hog = TaskCall(task=SYNTHETIC, args=(Behaviour(runs_for=60.0).to_json(),))
    driver.launch(hog)
    driver.clock().advance(seconds=1)
    control = driver.workflows()
    run = control.start("quick", (), {})
    started = driver.clock().now()

    driver.clock().advance(seconds=9)
    waiting = control.outcome(run)
    driver.clock().advance(seconds=2)
    failed = control.outcome(run)
    driver.settle(timeout=120)

    assert waiting is not None
    assert failed is not None
    assert waiting.status == "WAITING"
    assert (failed.status, failed.reason) == ("FAILED", "busy")
    assert passed(driver, run) == ["WAITING", "FAILED"]
    ended = driver.log().of(run)[-1].at - started.timestamp()
    assert 9.9 <= ended <= 11.1


def test_a_run_whose_worker_dies_goes_on_elsewhere_after_its_lease(
    driver: CelerySimDriver, app: Celery
) -> None:
    begin(driver, app)
    first = driver.start_worker(concurrency=1)
    control = driver.workflows()
    run = control.start("slow", (), {})
    driver.clock().advance(seconds=5)
    driver.start_worker(concurrency=1)

    driver.world.crash(first)
    crashed = driver.clock().now().timestamp()
    driver.clock().advance(seconds=90)

    assert passed(driver, run) == ["WAITING", "RUNNING", "SUCCESS"]
    taken_up = [
        event.at - crashed
        for event in driver.log()
        if event.kind is EventKind.STARTED and event.task == "taskservice.execute_workflow"
    ]
    assert len(taken_up) == 2
    # The lease of 15 s, since its last renewal a second ago at most, and the next sweep.
    assert 13.9 <= taken_up[1] <= 16.5


def test_nothing_is_swept_where_no_worker_is(driver: CelerySimDriver, app: Celery) -> None:
    begin(driver, app, config=Config(input_timeout=5.0))
    worker = driver.start_worker(concurrency=1)
    control = driver.workflows()
    run = control.start("approval", (), {})
    driver.clock().advance(seconds=1)
    driver.world.crash(worker)

    driver.clock().advance(seconds=60)
    alone = control.outcome(run)
    driver.start_worker(concurrency=1)
    driver.clock().advance(seconds=2)
    swept = control.outcome(run)

    assert alone is not None
    assert swept is not None
    assert (alone.status, swept.status, swept.reason) == ("INPUT", "FAILED", "input_timeout")


def test_a_day_of_silence_takes_a_few_events(driver: CelerySimDriver, app: Celery) -> None:
    begin(driver, app)
    control = driver.workflows()
    run = control.start("approval", (), {})
    driver.clock().advance(seconds=1)
    before = driver.world.simulation.events

    driver.clock().advance(hours=23, minutes=59)

    assert driver.world.simulation.events - before < 10
    assert passed(driver, run)[-1] == "INPUT"
    driver.clock().advance(minutes=1)
    assert passed(driver, run)[-1] == "FAILED"


def test_of_a_stop_that_races_with_the_end_one_is_taken(driver: CelerySimDriver, app: Celery) -> None:
    ends = [stopped_at_the_end(driver, app, seed) for seed in SEEDS]

    assert set(ends) == {("", "FAILED"), ("workflow_over", "SUCCESS")}


def stopped_at_the_end(driver: CelerySimDriver, app: Celery, seed: int) -> tuple[str, str]:
    """Stop a run when its step is about to end; return what came of that, and of the run."""
    begin(driver, app, seed=seed)
    control = driver.workflows()
    run = control.start("quick", (), {})
    driver.world.simulation.wait(lambda: "RUNNING" in passed(driver, run), timeout=5.0, what="a start")
    # Then the run is written twice, and each writing takes a round trip.
    driver.clock().advance(seconds=1.0)
    refused = ""
    try:
        control.stop(run)
    except WorkflowError as error:
        refused = error.code
    driver.settle(timeout=10)
    statuses = passed(driver, run)
    assert statuses[:-1] == ["WAITING", "RUNNING"]
    return refused, statuses[-1]


def test_one_seed_tells_one_story(driver: CelerySimDriver, app: Celery) -> None:
    digests = []
    for seed in (3, 3, 4):
        begin(driver, app, seed=seed)
        control = driver.workflows()
        run = control.start("approval", (), {})
        driver.clock().advance(seconds=1)
        control.answer(run, True)
        driver.settle(timeout=10)
        assert passed(driver, run)[-1] == "SUCCESS"
        digests.append(driver.digest)

    assert digests[0] == digests[1] != digests[2]
