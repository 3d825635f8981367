"""Faults that a scenario asks of a real world: they are real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.drivers.base import CapabilityError, TaskCall
from pytest_taskservice.errors import FaultError, HarnessTimeoutError
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.acts import CONNECTION_FAULTS, FaultCall
from pytest_taskservice.scenario.model import Workers
from tests.contract.worker_stories import BRIEF, LATE, add, call, eventually, kinds, leave_trace, slow, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver

pytestmark = pytest.mark.thorough


# Processes.


def test_a_killed_worker_comes_back_and_its_message_too(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(settings=BRIEF, faults=frozenset({"kill"}))
    run = driver.launch(slow(0.5))
    eventually(lambda: "started" in kinds(driver, run))

    driver.faults().inject(FaultCall(kind="kill", restart=0.1))
    driver.settle(timeout=15)

    assert driver.outcome(run).status == "SUCCESS"
    assert kinds(driver, run).count("started") == 2
    worker = [str(event.kind) for event in driver.log() if event.worker and not event.run]
    assert worker == ["worker up", "fault", "worker gone", "worker up"]
    assert [event.detail["fault"] for event in told(driver, EventKind.FAULT)] == ["kill restart=0.1"]


def test_an_early_acknowledged_message_is_lost_with_its_worker(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    driver = begin(faults=frozenset({"kill"}))
    run = driver.launch(slow(5))
    eventually(lambda: "started" in kinds(driver, run))

    driver.faults().inject(FaultCall(kind="kill", restart=0.0))
    driver.faults().heal()
    driver.settle(timeout=10)

    assert driver.outcome(run).status == "PENDING"
    assert kinds(driver, run)[-1] == "started"


def test_a_terminated_worker_ends_its_run_first(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"term"}))
    run = driver.launch(slow(0.5))
    eventually(lambda: "started" in kinds(driver, run))

    driver.faults().inject(FaultCall(kind="term", restart=None))
    eventually(lambda: told(driver, EventKind.WORKER_GONE))

    assert driver.outcome(run).status == "SUCCESS"
    late = driver.launch(call("add", 1, 2))
    with pytest.raises(HarnessTimeoutError, match=r"1 queued; worker1@taskservice is gone"):
        driver.settle(timeout=0.3)
    driver.faults().heal()
    driver.settle(timeout=10)
    assert driver.outcome(late).result == 3


def test_a_paused_worker_goes_on_by_itself(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"pause"}))
    fault = driver.faults().inject(FaultCall(kind="pause", lasts=0.5))
    run = driver.launch(call("add", 1, 2))

    with pytest.raises(HarnessTimeoutError, match="worker1@taskservice is paused"):
        driver.settle(timeout=0.2)
    driver.settle(timeout=10)

    assert (driver.outcome(run).result, fault.struck) == (3, 1)
    spans = [event.at for event in driver.log() if event.kind in (EventKind.FAULT, EventKind.HEALED)]
    assert spans[1] - spans[0] >= 0.5


def test_the_seed_draws_the_victim_and_a_name_decides(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(workers=Workers(count=2, concurrency=1), faults=frozenset({"pause"}))
    driver.faults().inject(FaultCall(kind="pause", worker="worker2"))

    assert [event.worker for event in told(driver, EventKind.FAULT)] == ["worker2@taskservice"]
    with pytest.raises(FaultError, match="there is no worker 'worker7' to strike"):
        driver.faults().inject(FaultCall(kind="kill", worker="worker7"))


# Strikes.


def test_a_worker_is_killed_at_each_point_of_a_run(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(settings=BRIEF, faults=frozenset({"kill"}))
    starts = {}
    for when in ("received", "started", "running", "stored"):
        into = 0.2 if when == "running" else 0.0
        fault = driver.faults().inject(FaultCall(kind="kill", when=when, into=into, restart=0.0))
        run = driver.launch(slow(0.4))
        driver.settle(timeout=20)
        assert (when, fault.struck, driver.outcome(run).status) == (when, 1, "SUCCESS")
        starts[when] = kinds(driver, run).count("started")

    # Received only: the body has not begun where its worker died.
    assert starts == {"received": 1, "started": 2, "running": 2, "stored": 2}
    assert len(told(driver, EventKind.WORKER_GONE)) == 4


def test_a_body_does_not_begin_where_its_worker_is_killed_at_its_start(
    begin: Callable[..., CeleryWorkerDriver], tmp_path: Any
) -> None:
    trace = tmp_path / "began"
    driver = begin(faults=frozenset({"kill"}))
    driver.faults().inject(FaultCall(kind="kill", when="started", restart=0.0))
    run = driver.launch(TaskCall(task=leave_trace.name, args=(str(trace),)))
    eventually(lambda: told(driver, EventKind.WORKER_GONE))
    driver.faults().heal()
    driver.settle(timeout=10)

    # Acknowledged early: it is gone, and nothing of it has run.
    assert (trace.exists(), driver.outcome(run).status) == (False, "PENDING")


def test_a_worker_is_paused_at_each_point_of_a_run(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(workers=Workers(count=1, concurrency=1), faults=frozenset({"pause"}))
    ends = {}
    for when in ("received", "started", "running", "stored"):
        into = 0.1 if when == "running" else 0.0
        fault = driver.faults().inject(FaultCall(kind="pause", when=when, into=into, lasts=0.6))
        run = driver.launch(slow(0.2))
        driver.settle(timeout=20)
        assert (when, fault.struck, driver.outcome(run).status) == (when, 1, "SUCCESS")
        events = {str(event.kind): event.at for event in driver.log().of(run)}
        ends[when] = events["succeeded"] - events["sent"]

    assert min(ends.values()) >= 0.6
    spans = [event for event in driver.log() if event.kind in (EventKind.FAULT, EventKind.HEALED)]
    assert [str(event.kind) for event in spans] == ["fault", "healed"] * 4
    assert {event.worker for event in spans} == {"worker1@taskservice"}
    assert not told(driver, EventKind.WORKER_GONE)


def test_a_pause_at_a_point_longer_than_an_answer_may_take_breaks_nothing(
    begin: Callable[..., CeleryWorkerDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_taskservice.drivers.worker_process._ASK_TIMEOUT", 0.2)
    driver = begin(faults=frozenset({"pause"}))
    driver.faults().inject(FaultCall(kind="pause", when="started", lasts=1.5))
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=20)

    assert driver.outcome(run).result == 3


def test_a_pause_at_a_point_ends_when_it_is_healed(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"pause"}))
    fault = driver.faults().inject(FaultCall(kind="pause", when="started", lasts=60))
    run = driver.launch(call("add", 1, 2))
    eventually(lambda: fault.struck)
    eventually(lambda: "to go on" in driver._faults.pending())  # type: ignore[union-attr]

    fault.heal()
    driver.settle(timeout=10)

    assert driver.outcome(run).result == 3


@pytest.mark.parametrize(
    "fault",
    [
        FaultCall(kind="term", when="running", into=0.2, restart=0.0),
        # Both of its runs reach the point before it ends.
        FaultCall(kind="restart", when="running", into=0.2, times=2, restart=0.0),
    ],
    ids=["term", "restart"],
)
def test_a_worker_is_told_to_end_at_a_point_of_a_run(
    fault: FaultCall, begin: Callable[..., CeleryWorkerDriver]
) -> None:
    driver = begin(workers=Workers(count=1, concurrency=2), faults=frozenset({fault.kind}))
    injected = driver.faults().inject(fault)
    runs = [driver.launch(slow(0.6)) for _ in range(2)]
    driver.settle(timeout=30)
    driver.faults().heal()

    assert [driver.outcome(run).status for run in runs] == ["SUCCESS", "SUCCESS"]
    assert injected.struck == fault.times
    assert len(told(driver, EventKind.WORKER_GONE)) == 1


def test_a_lost_child_is_told_by_its_worker(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"lose_child"}))
    outcomes = {}
    for when in ("started", "running", "stored"):
        fault = driver.faults().inject(FaultCall(kind="lose_child", when=when, task="slow"))
        run = driver.launch(slow(0.3))
        driver.settle(timeout=20)
        assert (when, fault.struck) == (when, 1)
        outcomes[when] = driver.outcome(run).error

    # What was stored by then holds.
    assert outcomes == {"started": "WorkerLostError", "running": "WorkerLostError", "stored": ""}
    assert not told(driver, EventKind.WORKER_GONE)


def test_lost_children_are_noticed_at_once(begin: Callable[..., CeleryWorkerDriver]) -> None:
    """Celery looks at once, at times a moment too early, and then again five seconds later."""
    driver = begin(workers=Workers(count=1, concurrency=2), faults=frozenset({"lose_child"}))
    driver.faults().inject(FaultCall(kind="lose_child", when="running", into=0.1, task="slow", times=None))
    runs = []
    for _ in range(4):
        runs.append(driver.launch(slow(9.0)))
        driver.settle(timeout=20)

    lost = {event.detail["run"]: event.at for event in told(driver, EventKind.FAULT)}
    told_at = {event.run: event.at for event in driver.log() if event.kind == "failed"}
    assert sorted(lost) == sorted(told_at) == sorted(runs)
    assert max(told_at[run] - lost[run] for run in runs) < 2.5


def test_slowness_is_within_the_time_limit_of_a_body(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"slow"}))
    fault = driver.faults().inject(FaultCall(kind="slow", by=0.4))
    run = driver.launch(slow(0.1))
    driver.settle(timeout=10)
    fault.heal()

    events = {event.kind: event.at for event in driver.log().of(run)}
    assert events[EventKind.SUCCEEDED] - events[EventKind.STARTED] >= 0.5


# Redis and the way to it.
# Its worker is idle: one of kombu 5.7 that holds unacknowledged messages may end itself when Redis goes.


def test_a_killed_redis_comes_back_with_its_messages(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(workers=Workers(count=1, concurrency=1, queues=("celery",)), faults=frozenset({"kill"}))
    driver.launch(TaskCall(task=add.name, args=(1, 2), queue="elsewhere"))

    driver.faults().inject(FaultCall(kind="kill", target="redis", restart=0.3))
    driver.faults().heal()
    after = driver.launch(call("add", 1, 2))
    driver.settle(timeout=20)

    assert driver._serving.place.waiting(["elsewhere"]) == 1
    assert driver.outcome(after).result == 3
    assert [str(event.kind) for event in driver.log() if not event.run and not event.worker] == [
        "fault",
        "healed",
    ]


def test_work_is_done_after_each_fault_of_the_connection(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    driver = begin(faults=frozenset(CONNECTION_FAULTS))
    for kind in CONNECTION_FAULTS:
        lasts = None if kind == "reset_peer" else 0.3
        fault = driver.faults().inject(
            FaultCall(kind=kind, by=0.05, rate=20_000, size=10, lasts=lasts, worker="worker1")
        )
        driver.faults().heal()
        run = driver.launch(call("add", 1, 2))
        driver.settle(timeout=20)

        assert (kind, driver.outcome(run).result, fault.struck) == (kind, 3, 1)


# Deliveries.


def test_a_message_that_is_doubled_runs_twice(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"duplicate"}))
    fault = driver.faults().inject(FaultCall(kind="duplicate", task="add"))
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=10)

    assert (kinds(driver, run).count("sent"), kinds(driver, run).count("started")) == (1, 2)
    assert fault.struck == 1


def test_a_message_of_a_worker_can_be_held_back(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"delay"}))
    driver.faults().inject(FaultCall(kind="delay", by=0.5, times=None))
    runs = driver.launch_canvas("chain", (call("add", 1, 2), call("add", 3)), None)
    driver.settle(timeout=10)

    for run in (*runs.members, *runs.ends):
        events = {event.kind: event.at for event in driver.log().of(run)}
        assert events[EventKind.RECEIVED] - events[EventKind.SENT] >= 0.5
    assert driver.outcome(runs.ends[0]).result == 6


def test_a_message_comes_again_whose_acknowledgement_got_lost(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    """Another task's acknowledgement arrives, and so does the second one of this one."""
    driver = begin(settings=BRIEF, faults=frozenset({"drop_ack"}))
    fault = driver.faults().inject(FaultCall(kind="drop_ack", task="add"))
    other = driver.launch(slow(0.1))
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=20)

    assert (kinds(driver, run).count("received"), kinds(driver, other).count("received")) == (2, 1)
    assert (driver.outcome(run).result, fault.struck) == (3, 1)
    assert [(event.detail["run"], event.worker) for event in told(driver, EventKind.FAULT)] == [
        (run, "worker1@taskservice")
    ]


def test_an_early_acknowledgement_can_get_lost(begin: Callable[..., CeleryWorkerDriver]) -> None:
    settings = {key: value for key, value in BRIEF.items() if key not in LATE}
    driver = begin(settings=settings, faults=frozenset({"drop_ack"}))
    driver.faults().inject(FaultCall(kind="drop_ack"))
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=20)

    assert kinds(driver, run).count("started") == 2


# What cannot be.


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (FaultCall(kind="latency", by=1), "the stage announces none"),
        (FaultCall(kind="kill", target="redis"), "the stage announces no fault of processes"),
    ],
)
def test_what_cannot_be_broken_is_refused(
    begin: Callable[..., CeleryWorkerDriver], fault: FaultCall, reason: str
) -> None:
    driver = begin()

    with pytest.raises(CapabilityError, match=reason):
        driver.faults().inject(fault)
    assert len(driver.refused) == 1


@pytest.mark.parametrize("kind", ["timeout", "pause"])
def test_nobody_waits_for_a_redis_that_is_silent_for_ever(
    kind: str, begin: Callable[..., CeleryWorkerDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_taskservice.drivers.worker_faults._ANSWER", 0.5)
    driver = begin(faults=frozenset({"timeout", "pause"}))
    driver.faults().inject(FaultCall(kind=kind, target="redis"))

    with pytest.raises(
        HarnessTimeoutError, match=rf"a launch waited .*\({kind} target=redis\); say with for"
    ):
        driver.launch(call("add", 1, 2))


def test_a_silence_that_ends_is_waited_for(
    begin: Callable[..., CeleryWorkerDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_taskservice.drivers.worker_faults._ANSWER", 0.5)
    driver = begin(faults=frozenset({"timeout"}))
    driver.faults().inject(FaultCall(kind="timeout", target="redis", lasts=1.5))
    run = driver.launch(call("add", 1, 2))
    driver.settle(timeout=20)

    assert driver.outcome(run).result == 3


def test_a_broken_world_is_thrown_away(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(faults=frozenset({"pause"}))
    broken = [member.process.pid for member in driver._serving.running.workers if member.process]
    driver.faults().inject(FaultCall(kind="pause"))
    driver.launch(call("add", 1, 2))
    driver.reset()

    begin(faults=frozenset({"pause"}))
    run = driver.launch(call("add", 2, 2))
    driver.settle(timeout=10)

    assert driver.outcome(run).result == 4
    assert [event.run for event in driver.log() if event.kind == "sent"] == [run]
    assert [member.process.pid for member in driver._serving.running.workers if member.process] != broken
