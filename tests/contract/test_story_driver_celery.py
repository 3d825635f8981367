"""What a scenario asks of a real world: workers, canvases, beat, and faults that are real."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from pytest_taskservice.drivers.base import CapabilityError, Stage, TaskCall
from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver, WorkerOptions
from pytest_taskservice.drivers.synthetic import SYNTHETIC, register
from pytest_taskservice.errors import FaultError, HarnessTimeoutError
from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.redis import RedisRequest, acquire
from pytest_taskservice.scenario.acts import CONNECTION_FAULTS, FaultCall, Mark
from pytest_taskservice.scenario.behaviour import Behaviour
from pytest_taskservice.scenario.model import Config, Entry, Workers
from taskservice.reaper import shared_reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

pytestmark = pytest.mark.thorough

MARK = Mark(path="story", line=1, column=1)
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
BRIEF = {
    **LATE,
    # Swept each second: what has been forgotten for so long is given to somebody else.
    "broker_transport_options": {
        "visibility_timeout": 1,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
}

app = Celery("stories", broker="amqp://nowhere.invalid", backend="rpc://")


@app.task
def add(left: int, right: int) -> int:
    return left + right


@app.task(lazy=False)
def bound_early() -> None:
    time.sleep(5)


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@pytest.fixture(scope="module")
def shared() -> Iterator[CeleryWorkerDriver]:
    """A driver that keeps its workers from one story to the next."""
    server = acquire(RedisRequest(choice="embedded"))
    driver = CeleryWorkerDriver(
        server, options=WorkerOptions(concurrency=2, timeout=20), reaper=shared_reaper()
    )
    yield driver
    driver.close()
    server.close()


@pytest.fixture
def begin(shared: CeleryWorkerDriver) -> Iterator[Callable[..., CeleryWorkerDriver]]:
    """Begins a story."""

    def begin(*, settings: Mapping[str, Any] | None = None, **stage: Any) -> CeleryWorkerDriver:
        shared.set_stage(Stage(**{"workers": Workers(count=1, concurrency=1), **stage}))
        shared.begin(app, settings or {})
        register(app)
        return shared

    yield begin
    shared.reset()
    app.tasks.pop(SYNTHETIC, None)


def slow(seconds: float, label: str = "slow") -> TaskCall:
    return TaskCall(task=SYNTHETIC, args=(Behaviour(runs_for=seconds, returns=label).to_json(),), label=label)


def call(task: str, *args: object) -> TaskCall:
    return TaskCall(task=f"{__name__}.{task}", args=args, label=task)


def kinds(driver: CeleryWorkerDriver, run: str) -> list[str]:
    return [str(event.kind) for event in driver.log().of(run)]


def told(driver: CeleryWorkerDriver, kind: EventKind) -> list[Event]:
    return [event for event in driver.log() if event.kind is kind]


def eventually(condition: Callable[[], object], *, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# Workers, canvases, races.


def test_a_story_has_as_many_workers_as_it_says(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(workers=Workers(count=2, concurrency=1))
    runs = [driver.launch(slow(0.3)) for _ in range(2)]
    driver.settle(timeout=10)

    up = told(driver, EventKind.WORKER_UP)
    started = {event.worker for run in runs for event in driver.log().of(run) if event.kind == "started"}

    assert [(event.worker, event.detail["slots"]) for event in up] == [
        ("worker1@taskservice", 1),
        ("worker2@taskservice", 1),
    ]
    assert started == {"worker1@taskservice", "worker2@taskservice"}


def test_workers_are_kept_for_a_story_of_the_same_shape(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(workers=Workers(count=2, concurrency=1))
    before = {member.process.pid for member in driver._serving.running.workers if member.process}
    driver.launch(call("add", 1, 2))
    driver.settle(timeout=10)
    driver.reset()

    begin(workers=Workers(count=2, concurrency=1))

    assert {member.process.pid for member in driver._serving.running.workers if member.process} == before
    assert [event.kind for event in driver.log()] == [EventKind.WORKER_UP] * 2


def test_workers_are_kept_while_stories_of_other_shapes_have_theirs(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    def pids(**stage: Any) -> set[int]:
        driver = begin(**stage)
        run = driver.launch(call("add", 1, 2))
        driver.settle(timeout=10)
        assert driver.outcome(run).status == "SUCCESS"
        found = {member.process.pid for member in driver._serving.running.members if member.process}
        driver.reset()
        return found

    hourly = Entry(name="hourly", mark=MARK, task="sum", every=3600.0)
    ours = {"workers": Workers(count=1, concurrency=2)}
    first = pids(**ours)
    beaten = pids(**ours, beat={"hourly": hourly}, tasks={"sum": call("add", 1, 2)})
    broken = pids(**ours, faults=frozenset({"kill"}))

    assert pids(**ours) == first
    assert not first & (beaten | broken)


def test_workers_listen_to_the_queues_they_are_given_alone(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    driver = begin(workers=Workers(count=1, concurrency=1, queues=("fast",)))
    heard = driver.launch(TaskCall(task=f"{__name__}.add", args=(1, 2), queue="fast"))
    unheard = driver.launch(TaskCall(task=f"{__name__}.add", args=(1, 2), queue="elsewhere"))
    driver.settle(timeout=10)

    assert (driver.outcome(heard).status, driver.outcome(unheard).status) == ("SUCCESS", "PENDING")


def test_a_chain_tells_its_runs_in_order(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin()
    runs = driver.launch_canvas("chain", (call("add", 1, 2), call("add", 3), call("add", 4)), None)
    driver.settle(timeout=10)

    assert [driver.outcome(run).result for run in (*runs.members, *runs.ends)] == [3, 6, 10]
    assert all(kinds(driver, run)[0] == "sent" for run in (*runs.members, *runs.ends))


def test_a_group_ends_with_all_its_runs_and_a_chord_with_its_body(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    driver = begin()
    group = driver.launch_canvas("group", (call("add", 1, 1), call("add", 2, 2)), None)
    chord = driver.launch_canvas("chord", (call("add", 1, 1), call("add", 2, 2)), call("total"))
    driver.settle(timeout=10)

    assert [driver.outcome(run).result for run in group.ends] == [2, 4]
    assert [driver.outcome(run).result for run in (*chord.members, *chord.ends)] == [2, 4, 6]


def test_synthetic_members_of_a_canvas_play_their_own_part(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    driver = begin()
    runs = driver.launch_canvas("chord", (slow(0, "a"), slow(0, "b")), slow(0, "c"))
    driver.settle(timeout=10)

    assert [driver.outcome(run).result for run in (*runs.members, *runs.ends)] == ["a", "b", "c"]


def test_what_is_done_at_once_is_all_done(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin()
    runs: list[str] = []

    driver.at_once([lambda: runs.append(driver.launch(call("add", 1, 2)))] * 8)
    driver.settle(timeout=10)

    assert [driver.outcome(run).result for run in runs] == [3] * 8


def test_settings_reach_the_workers(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(settings={"task_track_started": True})
    run = driver.launch(slow(5))

    eventually(lambda: driver.outcome(run).status == "STARTED")


@pytest.mark.parametrize("called", [slow(5), call("bound_early")], ids=["synthetic", "bound at import"])
def test_settings_of_a_story_reach_tasks_that_have_copied_the_apps(
    begin: Callable[..., CeleryWorkerDriver], called: TaskCall
) -> None:
    driver = begin(config=Config(celery={"task_track_started": True}))
    run = driver.launch(called)

    eventually(lambda: driver.outcome(run).status == "STARTED")


# Beat.


def test_beat_sends_what_the_story_says(begin: Callable[..., CeleryWorkerDriver]) -> None:
    driver = begin(
        beat={"often": Entry(name="often", mark=MARK, task="sum", every=0.3)},
        tasks={"sum": call("add", 1, 2)},
    )

    def sent() -> list[Event]:
        return [event for event in told(driver, EventKind.SENT) if event.detail.get("entry") == "often"]

    eventually(lambda: len(sent()) >= 3)

    assert {(event.task, event.worker) for event in sent()} == {("add", "beat")}
    eventually(lambda: driver.outcome(sent()[0].run).result == 3)


def test_a_beat_may_be_in_several_time_zones(begin: Callable[..., CeleryWorkerDriver]) -> None:
    nightly = {
        zone: Entry(name=zone, mark=MARK, task="sum", cron="0 6 * * *", timezone=zone)
        for zone in ("Europe/Berlin", "Asia/Tokyo")
    }
    driver = begin(
        beat={"often": Entry(name="often", mark=MARK, task="sum", every=0.2), **nightly},
        tasks={"sum": call("add", 1, 2)},
    )

    eventually(lambda: [event for event in driver.log() if event.detail.get("entry") == "often"])


def test_a_beat_that_is_killed_is_silent_until_it_is_healed(
    begin: Callable[..., CeleryWorkerDriver],
) -> None:
    driver = begin(
        beat={"often": Entry(name="often", mark=MARK, task="sum", every=0.3)},
        tasks={"sum": call("add", 1, 2)},
        faults=frozenset({"kill"}),
    )
    eventually(lambda: told(driver, EventKind.SENT))

    driver.faults().inject(FaultCall(kind="kill", target="beat", restart=None))
    driver.settle(timeout=10)
    silent = len(told(driver, EventKind.SENT))
    time.sleep(0.6)
    assert len(told(driver, EventKind.SENT)) == silent
    driver.faults().heal()

    eventually(lambda: len(told(driver, EventKind.SENT)) > silent)


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
    run = driver.launch(TaskCall(task=f"{__name__}.leave_trace", args=(str(trace),)))
    eventually(lambda: told(driver, EventKind.WORKER_GONE))
    driver.faults().heal()
    driver.settle(timeout=10)

    # Acknowledged early: it is gone, and nothing of it has run.
    assert (trace.exists(), driver.outcome(run).status) == (False, "PENDING")


@app.task
def leave_trace(path: str) -> None:
    from pathlib import Path

    Path(path).touch()


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
    driver.launch(TaskCall(task=f"{__name__}.add", args=(1, 2), queue="elsewhere"))

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
