"""The contract of a driver, over every world; what a world cannot show must be refused, not played."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery import Celery, bootsteps

from pytest_taskservice.drivers.base import (
    Capability,
    CapabilityError,
    Stage,
    StoryDriver,
    TaskCall,
    WorldDriver,
)
from pytest_taskservice.errors import HarnessTimeoutError, UnknownNameError
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.acts import FaultCall, Mark
from pytest_taskservice.scenario.model import Entry, Workers

if TYPE_CHECKING:
    from collections.abc import Callable

app = Celery("drivers", broker="amqp://nowhere.invalid", backend="rpc://")
app.conf.task_routes = {f"{__name__}.routed": {"queue": "elsewhere"}}


@app.task
def add(left: int, right: int) -> int:
    return left + right


@app.task
def keep(found: object) -> object:
    return found


@app.task
def routed() -> str:
    return "arrived"


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(bind=True, max_retries=3)
def flaky(self, failures: int) -> str:  # type: ignore[no-untyped-def] # a bound task's own self
    if self.request.retries < failures:
        raise self.retry(countdown=0)
    return "at last"


@pytest.fixture
def taskservice_app() -> Celery:
    """The app of this module, instead of any named in the settings."""
    return app


@pytest.fixture
def driver(taskservice_driver: WorldDriver) -> WorldDriver:
    """The driver of the world that the test runs in."""
    return taskservice_driver


def call(task: str, *args: object, **options: float) -> TaskCall:
    return TaskCall(task=f"{__name__}.{task}", args=args, **options)  # type: ignore[arg-type] # floats only


def test_a_settled_run_has_its_result(driver: WorldDriver) -> None:
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=10)

    outcome = driver.outcome(run)

    assert (outcome.status, outcome.result, outcome.attempts) == ("SUCCESS", 3, 1)


def test_a_failure_keeps_its_type_and_text(driver: WorldDriver) -> None:
    run = driver.launch(call("fail", "no stock"))
    driver.settle(timeout=10)

    outcome = driver.outcome(run)

    assert (outcome.status, outcome.error, outcome.message) == ("FAILURE", "ValueError", "no stock")


def test_the_log_tells_a_run_from_sent_to_its_end(driver: WorldDriver) -> None:
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=10)

    kinds = [event.kind for event in driver.log().of(run) if event.kind is not EventKind.RECEIVED]

    assert kinds == [EventKind.SENT, EventKind.STARTED, EventKind.SUCCEEDED]


def test_the_log_counts_attempts(driver: WorldDriver) -> None:
    run = driver.launch(call("flaky", 2))
    driver.settle(timeout=10)

    started = [event.attempt for event in driver.log().of(run) if event.kind is EventKind.STARTED]

    assert started == [1, 2, 3]


def test_a_label_is_what_the_log_shows(driver: WorldDriver) -> None:
    run = driver.launch(TaskCall(task=f"{__name__}.add", args=(1, 2), label="sum"))
    driver.settle(timeout=10)

    assert {event.task for event in driver.log().of(run)} == {"sum"}


def test_a_routed_task_arrives(driver: WorldDriver) -> None:
    run = driver.launch(call("routed"))
    driver.settle(timeout=10)

    assert driver.outcome(run).result == "arrived"


def test_an_unknown_task_is_told_with_the_nearest(driver: WorldDriver) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean '.*\.add'"):
        driver.launch(call("ad", 1, 2))


@pytest.mark.parametrize(
    ("option", "capability"),
    [
        ("countdown", Capability.ETA),
        ("expires", Capability.EXPIRES),
        ("time_limit", Capability.TIME_LIMITS),
        ("soft_time_limit", Capability.TIME_LIMITS),
    ],
)
def test_what_a_world_cannot_show_is_refused(
    driver: WorldDriver, option: str, capability: Capability
) -> None:
    launch = call("add", 1, 2, **{option: 0.1})
    reason = driver.cannot(capability)

    if reason is None:
        assert driver.launch(launch)
        return
    with pytest.raises(CapabilityError, match=f"{driver.name} cannot: {capability}"):
        driver.launch(launch)
    assert [error.capability for error in driver.refused] == [capability]
    # Seen, and not the plugin's business: it would skip this test.
    driver.refused.clear()


def test_capabilities_and_reasons_agree(driver: WorldDriver) -> None:
    for capability in Capability:
        assert (driver.cannot(capability) is None) == (capability in driver.capabilities)


def test_a_run_that_is_due_later_is_named_by_settle(driver: WorldDriver) -> None:
    if driver.cannot(Capability.ETA):
        pytest.skip(f"{driver.name} has no eta")
    driver.launch(TaskCall(task=f"{__name__}.add", args=(1, 2), label="sum", countdown=60))

    with pytest.raises(HarnessTimeoutError, match=r"not settled within 0\.3 s.*: .*sum"):
        driver.settle(timeout=0.3)


def test_a_revoked_run_does_not_start(driver: WorldDriver) -> None:
    if driver.cannot(Capability.REVOKE):
        pytest.skip(f"{driver.name} has no revoke")
    run = driver.launch(call("add", 1, 2, countdown=0.3))

    driver.revoke(run)
    driver.settle(timeout=10)

    assert driver.outcome(run).status == "REVOKED"
    assert EventKind.STARTED not in {event.kind for event in driver.log().of(run)}


def test_a_reset_world_has_forgotten(driver: WorldDriver) -> None:
    driver.launch(call("add", 1, 2))
    driver.settle(timeout=10)

    driver.reset()
    driver.begin(app, {})

    assert list(driver.log()) == []


def test_nothing_is_received_before_it_was_sent(driver: WorldDriver) -> None:
    runs = [driver.launch(call("add", 1, 2)) for _ in range(20)]
    driver.settle(timeout=10)

    assert {driver.log().of(run)[0].kind for run in runs} == {EventKind.SENT}


@pytest.mark.parametrize("per_message", [1, 2])
def test_many_at_once_go_through_the_service(driver: WorldDriver, per_message: int) -> None:
    with driver.blocking_service() as service:
        handles = service.launch_many(add, [(1, 1), (2, 2), (3, 3)], per_message=per_message)

        assert [handle.result(timeout=10) for handle in handles] == [2, 4, 6]


# What a story asks of a driver.

MARK = Mark(path="f.yaml", line=1, column=1)


@pytest.fixture
def staged(story_driver: StoryDriver) -> Callable[[Stage], StoryDriver]:
    """Have the driver set up a stage; a world that cannot is left by this."""

    def stage(wanted: Stage) -> StoryDriver:
        story_driver.set_stage(wanted)
        story_driver.begin(app, {})
        return story_driver

    return stage


@pytest.mark.parametrize(
    ("kind", "values"), [("chain", [6, 3]), ("group", [3, 7]), ("chord", [[3, 7], 3, 7])]
)
def test_a_canvas_has_its_runs(
    kind: str, values: list[object], staged: Callable[[Stage], StoryDriver]
) -> None:
    driver = staged(Stage())
    members = {
        "chain": (call("add", 1, 2), call("add", 3)),
        "group": (call("add", 1, 2), call("add", 3, 4)),
        "chord": (call("add", 1, 2), call("add", 3, 4)),
    }[kind]

    runs = driver.launch_canvas(kind, members, call("keep") if kind == "chord" else None)
    driver.settle(timeout=10)

    assert [driver.outcome(run).result for run in (*runs.ends, *runs.members)] == values


def test_a_canvas_shows_the_labels_of_its_calls(staged: Callable[[Stage], StoryDriver]) -> None:
    driver = staged(Stage())
    calls = tuple(TaskCall(task=f"{__name__}.add", args=(1, 2), label=label) for label in ("left", "right"))

    runs = driver.launch_canvas("group", calls, None)
    driver.settle(timeout=10)

    assert [driver.log().of(run)[-1].task for run in runs.ends] == ["left", "right"]


def test_what_is_done_at_once_is_done_once(staged: Callable[[Stage], StoryDriver]) -> None:
    driver = staged(Stage(seed=3))
    runs: list[str] = []
    acts = [lambda number=number: runs.append(driver.launch(call("add", number, 0))) for number in range(4)]

    if driver.cannot(Capability.RACES):
        with pytest.raises(CapabilityError):
            driver.at_once(acts)
        driver_refused(driver)
        return
    driver.at_once(acts)
    driver.settle(timeout=10)

    assert sorted(driver.outcome(run).result for run in runs) == [0, 1, 2, 3]


def test_workers_of_a_stage_consume_its_queues(
    story_driver: StoryDriver, staged: Callable[[Stage], StoryDriver]
) -> None:
    driver = story_driver
    if driver.cannot(Capability.WORKERS):
        pytest.skip(f"{driver.name} has no workers")
    driver = staged(Stage(workers=Workers(count=2, concurrency=1, queues=("celery", "elsewhere"))))

    run = driver.launch(call("routed"))
    driver.settle(timeout=10)

    up = [event for event in driver.log() if event.kind is EventKind.WORKER_UP]
    assert driver.outcome(run).result == "arrived"
    assert sorted(event.worker.partition("@")[0] for event in up) == ["worker1", "worker2"]
    assert [event.detail["slots"] for event in up] == [1, 1]
    assert [sorted(event.detail["queues"]) for event in up] == [["celery", "elsewhere"]] * 2


def test_the_beat_of_a_stage_sends_under_its_name(
    story_driver: StoryDriver, staged: Callable[[Stage], StoryDriver]
) -> None:
    driver = story_driver
    if driver.cannot(Capability.BEAT) or driver.cannot(Capability.CLOCK):
        pytest.skip(f"{driver.name} has no beat, or no time to wait for it")
    driver = staged(
        Stage(
            beat={"often": Entry(name="often", mark=MARK, task="sum", every=60.0)},
            tasks={"sum": TaskCall(task=f"{__name__}.add", args=(1, 2), label="sum")},
        )
    )

    driver.clock().advance(minutes=2, seconds=30)

    sent = {event.run for event in driver.log() if event.detail.get("entry") == "often"}
    assert [driver.outcome(run).result for run in sent] == [3, 3]


def test_a_fault_is_told_and_healed(
    story_driver: StoryDriver, staged: Callable[[Stage], StoryDriver]
) -> None:
    driver = story_driver
    if driver.cannot(Capability.CONNECTION_FAULTS):
        staged(Stage())
        with pytest.raises(CapabilityError):
            driver.faults()
        driver_refused(driver)
        return
    driver = staged(Stage(workers=Workers(), faults=frozenset({"latency"})))

    injection = driver.faults().inject(FaultCall(kind="latency", by=0.2))
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=20)
    injection.heal()
    injection.heal()
    driver.faults().heal()

    kinds = [event.kind for event in driver.log() if event.kind in (EventKind.FAULT, EventKind.HEALED)]
    assert driver.outcome(run).result == 3
    assert injection.struck == 1
    assert kinds == [EventKind.FAULT, EventKind.HEALED]


def test_a_stage_is_forgotten_with_its_story(
    story_driver: StoryDriver, staged: Callable[[Stage], StoryDriver]
) -> None:
    driver = story_driver
    if driver.cannot(Capability.WORKERS):
        pytest.skip(f"{driver.name} has no workers")
    staged(Stage(workers=Workers(count=3)))

    driver.reset()
    driver.begin(app, {})
    driver.launch(call("add", 1, 2))
    driver.settle(timeout=10)

    assert len({event.worker for event in driver.log() if event.worker}) == 1


def driver_refused(driver: StoryDriver) -> None:
    """See that the refusal is kept, and keep it from the plugin: it would skip this test."""
    assert len(driver.refused) == 1
    driver.refused.clear()


def test_a_stage_that_cannot_be_set_leaves_the_world_to_the_next(
    story_driver: StoryDriver, staged: Callable[[Stage], StoryDriver]
) -> None:
    if story_driver.name != "celery-sim":
        pytest.skip("another world's workers are no part of this process")

    class Refusing(bootsteps.Step):
        def __init__(self, parent: object, **_: object) -> None:
            raise LookupError("no worker today")

    app.steps["worker"].add(Refusing)
    try:
        with pytest.raises(LookupError):
            staged(Stage(workers=Workers()))
    finally:
        app.steps["worker"].remove(Refusing)

    staged(Stage())
    run = story_driver.launch(call("add", 1, 2))
    story_driver.settle(timeout=10)
    assert story_driver.outcome(run).result == 3
