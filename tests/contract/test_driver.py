"""The contract of a driver, over every world; what a world cannot show must be refused, not played."""

from __future__ import annotations

import pytest
from celery import Celery

from pytest_taskservice.drivers.base import Capability, CapabilityError, TaskCall, WorldDriver
from pytest_taskservice.errors import HarnessTimeoutError, UnknownNameError
from pytest_taskservice.history import EventKind

app = Celery("drivers", broker="amqp://nowhere.invalid", backend="rpc://")
app.conf.task_routes = {f"{__name__}.routed": {"queue": "elsewhere"}}


@app.task
def add(left: int, right: int) -> int:
    return left + right


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
