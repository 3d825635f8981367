"""Faults in a simulated world, and what Celery really does about each."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from pytest_taskservice.drivers.app_patch import AppPatch
from pytest_taskservice.errors import FaultError, SimulationIdleError, UnknownNameError
from pytest_taskservice.history import EventKind
from pytest_taskservice.report.history import render_history
from pytest_taskservice.simulator.celery.fault_values import KINDS, Fault
from pytest_taskservice.simulator.celery.world import CeleryWorld

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.accounts import Accounts

REDIS, AMQP = "redis://localhost/0", "amqp://localhost//"

app = Celery("faults", broker=REDIS, backend="redis://localhost/0", set_as_current=False)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 600},
    beat_schedule={"tick": {"task": "faults.early", "schedule": 60.0, "args": (0,)}},
)


@app.task(name="faults.early")
def early(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="faults.late", acks_late=True, reject_on_worker_lost=True)
def late(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="faults.late_only", acks_late=True)
def late_only(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@contextmanager
def opened(
    url: str = REDIS, *, seed: int = 0, workers: int = 1, concurrency: int = 1
) -> Iterator[CeleryWorld]:
    """A world whose broker is ``url``'s."""
    with ExitStack() as stack:
        stack.enter_context(AppPatch(app, {"broker_url": url}).applied())
        world = stack.enter_context(CeleryWorld(seed=seed))
        for _ in range(workers):
            world.start_worker(app, concurrency=concurrency)
        yield world


@pytest.fixture(params=[REDIS, AMQP], ids=["redis", "amqp"])
def world(request: pytest.FixtureRequest) -> Iterator[CeleryWorld]:
    """A world of one worker with one slot, on either kind of broker."""
    with opened(request.param) as found:
        yield found


@pytest.fixture
def redis_world() -> Iterator[CeleryWorld]:
    """The same on Redis, whose visibility timeout is 600 s."""
    with opened() as found:
        yield found


def starts(world: CeleryWorld) -> list[float]:
    """Whole seconds at which bodies began, since the world was opened."""
    return [
        int(event.at - world.simulation.start)
        for event in world.record.log()
        if event.kind is EventKind.STARTED
    ]


# A killed worker.


@pytest.mark.parametrize(
    ("url", "at", "into", "began"),
    [
        (REDIS, "received", 0, [600]),
        (REDIS, "started", 0, [0, 600]),
        (REDIS, "running", 1, [0, 600]),
        (REDIS, "stored", 0, [0, 600]),
        (AMQP, "received", 0, [1]),
        (AMQP, "started", 0, [0, 1]),
        (AMQP, "running", 1, [0, 2]),
        (AMQP, "stored", 0, [0, 3]),
    ],
)
def test_a_late_message_of_a_killed_worker_comes_back(
    url: str, at: str, into: float, began: list[float]
) -> None:
    with opened(url) as world:
        fault = world.faults.inject("kill", at=at, into=into)
        run = late.delay(2)

        assert run.get() == 2
        world.simulation.run_until_idle()
        account = world.accounts()[run.id]
        assert (fault.times, account.state, account.starts) == (1, "SUCCESS", len(began))
        assert starts(world) == began


@pytest.mark.parametrize(
    ("at", "state", "lost"),
    [
        ("received", "SUCCESS", ""),
        ("started", "", "started by worker1@sim, which acknowledged it and was killed"),
        ("running", "", "started by worker1@sim, which acknowledged it and was killed"),
        ("stored", "SUCCESS", ""),
    ],
)
def test_an_early_message_of_a_killed_worker_is_lost_once_it_has_started(
    world: CeleryWorld, at: str, state: str, lost: str
) -> None:
    world.faults.inject("kill", at=at)
    run = early.delay(2)

    world.simulation.run_until_idle()

    account = world.accounts()[run.id]
    assert (account.state, account.lost) == (state, lost)
    assert [each.run for each in world.accounts().lost] == ([run.id] if lost else [])


def test_a_killed_worker_comes_back_under_its_name_and_on_its_queues(world: CeleryWorld) -> None:
    app.control.add_consumer("extra", reply=True)

    world.faults.inject("kill", restart=5)
    run = early.apply_async((0,), queue="extra")

    assert run.get() == 0
    assert [worker.process.name for worker in world.living()] == ["worker1@sim"]
    assert starts(world) == [6]


def test_without_restart_the_message_stays_where_it_is(redis_world: CeleryWorld) -> None:
    redis_world.faults.inject("kill", at="running", into=1, restart=None)
    run = late.delay(2)

    redis_world.simulation.advance(10)

    (account,) = redis_world.accounts().pending
    assert account.run == run.id
    assert account.place.startswith(
        "delivered to worker1@sim and not acknowledged, which has ended; goes to "
    )


def test_another_worker_gets_what_a_killed_one_had() -> None:
    with opened(AMQP, workers=2) as world:
        world.faults.inject("kill", at="running", into=1, restart=None)

        assert late.delay(2).get() == 2
        assert starts(world) == [0, 1]


def test_a_kill_meets_only_the_task_and_the_worker_it_names() -> None:
    with opened(AMQP, workers=2) as world:
        fault = world.faults.inject(
            "kill", at="started", task="*.late", worker="worker2", times=None, restart=None
        )
        runs = [task.delay(1) for task in (early, late, early, late)]

        assert [run.get() for run in runs] == [1, 1, 1, 1]
        assert fault.times <= 1
        assert world.living()[0].process.name == "worker1@sim"


# A lost child.


@pytest.mark.parametrize("at", ["started", "running"])
@pytest.mark.parametrize(("task", "began", "state"), [(early, [0], "FAILURE"), (late_only, [0], "FAILURE")])
def test_a_lost_child_fails_the_run(
    world: CeleryWorld, at: str, task: Any, began: list[float], state: str
) -> None:
    world.faults.inject("lose_child", at=at)
    run = task.delay(2)

    with pytest.raises(Exception, match="signal 9") as caught:
        run.get()

    assert type(caught.value).__name__ == "WorkerLostError"
    assert (starts(world), world.accounts()[run.id].state) == (began, state)


@pytest.mark.parametrize("at", ["started", "running"])
def test_reject_on_worker_lost_gives_the_message_back(world: CeleryWorld, at: str) -> None:
    world.faults.inject("lose_child", at=at)
    run = late.delay(2)

    assert run.get() == 2
    kinds = [event.kind for event in world.record.log() if event.run == run.id]
    assert kinds == ["sent", "received", "started", "rejected", "received", "started", "succeeded"]


def test_the_worker_goes_on_after_a_lost_child(world: CeleryWorld) -> None:
    world.faults.inject("lose_child", at="running", into=1)
    first, second = early.delay(2), early.delay(2)

    assert second.get() == 2
    assert first.state == "FAILURE"
    assert starts(world) == [0, 1]


# Asked to end, stopped.


def test_a_worker_that_is_asked_to_end_finishes_what_runs_and_gives_back_the_rest(world: CeleryWorld) -> None:
    runs = [late.delay(2) for _ in range(3)]
    world.faults.inject("term", after=1, restart=10)

    world.simulation.run_until_idle()

    assert [run.get() for run in runs] == [2, 2, 2]
    assert starts(world) == [0, 12, 14]
    assert {account.starts for account in world.accounts()} == {1}


def test_a_paused_worker_goes_on_where_it_stood(world: CeleryWorld) -> None:
    run = early.delay(2)
    world.faults.inject("pause", after=1, for_=100)

    assert run.get() == 2
    assert int(world.simulation.elapsed) == 101


@pytest.mark.parametrize("at", ["received", "started", "running", "stored"])
def test_a_worker_is_paused_at_each_point_of_a_run(at: str, world: CeleryWorld) -> None:
    fault = world.faults.inject("pause", at=at, for_=100, **({"into": 1} if at == "running" else {}))

    run = early.delay(2)
    assert run.get() == 2
    world.simulation.run_until_idle()

    log = list(world.record.log())
    (ended,) = [event.at - world.simulation.start for event in log if event.kind is EventKind.SUCCEEDED]
    # What has slept for its time by then is at its end.
    assert int(ended) == {"received": 102, "started": 102, "running": 101, "stored": 102}[at]
    assert (fault.times, fault.over) == (1, True)
    assert [str(event.kind) for event in log if event.kind in (EventKind.FAULT, EventKind.HEALED)] == [
        "fault",
        "healed",
    ]


def test_a_pause_at_a_point_ends_when_it_is_healed(world: CeleryWorld) -> None:
    fault = world.faults.inject("pause", at="started", for_=1_000)
    run = early.delay(2)
    world.simulation.advance(10)

    fault.heal()

    assert run.get() == 2
    assert int(world.simulation.elapsed) == 12


@pytest.mark.parametrize("kind", ["term", "restart"])
def test_a_worker_is_told_to_end_at_a_point_of_a_run(kind: str, world: CeleryWorld) -> None:
    fault = world.faults.inject(kind, at="running", into=1, task="faults.early", restart=5)
    runs = [early.delay(2), early.delay(2)]

    assert [run.get() for run in runs] == [2, 2]
    # The second one by the worker that came up afterwards.
    assert starts(world) == [0, 7]
    assert fault.times == 1


def test_messages_of_a_paused_worker_time_out_on_redis() -> None:
    with opened(workers=2) as world:
        runs = [late.delay(3), late.delay(3)]
        world.faults.inject("pause", worker="worker1", after=1, for_=1_000)

        assert [run.get() for run in runs] == [3, 3]
        world.simulation.run_until_idle()
        assert sorted(account.starts for account in world.accounts()) == [1, 2]
        assert starts(world) == [0, 0, 600]


def test_a_worker_that_is_killed_while_it_is_paused_loses_nothing(world: CeleryWorld) -> None:
    world.faults.inject("pause")
    runs = [late.delay(0), late.delay(0)]
    world.simulation.advance(1)
    world.faults.inject("kill")

    assert [run.get() for run in runs] == [0, 0]
    # RabbitMQ had pushed them to it, a Redis had not been asked; either way they are there at once.
    assert starts(world) == [2, 2]


def test_waiting_for_a_paused_worker_names_the_fault(world: CeleryWorld) -> None:
    world.faults.inject("pause")

    with pytest.raises(SimulationIdleError, match="worker1@sim is paused\n  fault: pause"):
        early.delay(1).get()


# The broker, and the way to it.


def test_an_outage_refuses_to_publish_until_it_is_over(world: CeleryWorld) -> None:
    outage = world.faults.inject("down")

    with pytest.raises(OperationalError, match="the simulated broker is down"):
        early.delay(1)
    outage.heal()

    assert early.delay(1).get() == 1


@pytest.mark.parametrize(("kind", "options"), [("timeout", {}), ("pause", {"target": "broker"})])
def test_a_silent_broker_is_waited_for(kind: str, options: dict[str, Any], world: CeleryWorld) -> None:
    silence = world.faults.inject(kind, for_=10, **options)

    run = early.delay(1)

    assert int(world.simulation.elapsed) == 10
    assert run.get() == 1
    assert (silence.times, silence.over) == (1, True)


def test_whoever_waits_for_a_broker_that_is_silent_for_ever_is_told_why(world: CeleryWorld) -> None:
    world.faults.inject("timeout")

    with pytest.raises(SimulationIdleError, match=r"the broker to answer(.|\n)*fault: timeout"):
        early.delay(1)


def test_an_acknowledgement_during_a_silence_is_heard_before_anybody_looks_for_its_message() -> None:
    with opened() as world:
        run = late.delay(300)
        world.faults.inject("timeout", after=200, for_=1_000)

        assert run.get() == 300
        world.simulation.run_until_idle()
        # The visibility timeout of 600 s was over at 600 s, and the silence at 1,200 s.
        assert starts(world) == [0]


def test_bytes_take_their_time_on_a_narrow_connection(world: CeleryWorld) -> None:
    world.faults.inject("bandwidth", rate=100)

    run = early.delay(0)
    sent_by = world.simulation.elapsed
    assert run.get() == 0

    # Some 800 bytes or more to the broker, and as many again to the worker.
    assert sent_by > 8
    assert world.simulation.elapsed > 1.9 * sent_by


def test_a_soft_limit_may_be_over_before_the_body_begins(world: CeleryWorld) -> None:
    world.faults.inject("slow", by=10)

    run = early.apply_async((1,), soft_time_limit=5)
    another = early.apply_async((1,), soft_time_limit=20)

    with pytest.raises(SoftTimeLimitExceeded):
        run.get()
    assert another.get() == 1


def test_slices_take_their_time(world: CeleryWorld) -> None:
    world.faults.inject("slicer", size=100, by=1)
    began = world.simulation.elapsed

    early.delay(0)

    sent_in = world.simulation.elapsed - began
    assert 5 < sent_in < 30
    assert abs(sent_in - round(sent_in)) < 0.01


def test_nobody_overtakes_on_a_narrow_connection(world: CeleryWorld) -> None:
    world.faults.inject("bandwidth", rate=2_000, for_=60)
    runs = [early.delay(0.01 * number) for number in range(5)]
    world.simulation.run_until_idle()

    began = [event.run for event in world.record.log() if event.kind is EventKind.STARTED]
    assert began == [run.id for run in runs]


def test_workers_find_their_way_back_after_an_outage(world: CeleryWorld) -> None:
    world.faults.inject("down", for_=10)
    world.simulation.advance(11)

    assert early.delay(1).get() == 1
    # Celery tries again after 2, 4 and 6 seconds.
    assert starts(world) == [12]


@pytest.mark.parametrize(("url", "began"), [(REDIS, [0]), (AMQP, [0, 14])])
def test_what_ran_during_an_outage_is_acknowledged_by_its_tag_on_redis_only(
    url: str, began: list[float]
) -> None:
    with opened(url) as world:
        run = late.delay(14)
        world.faults.inject("down", after=1, for_=5)

        world.simulation.run_until_idle()
        assert run.get() == 14
        assert starts(world) == began


def test_a_connection_that_breaks_gives_its_messages_back(world: CeleryWorld) -> None:
    run = late.delay(2)
    world.faults.inject("reset_peer", after=1)

    world.simulation.run_until_idle()

    # The one slot is still taken: the second time waits for the first to end.
    assert starts(world) == [0, 2]
    assert world.accounts()[run.id].successes == 2


@pytest.mark.parametrize(("url", "began"), [(REDIS, [0, 2]), (AMQP, [0, 2, 3])])
def test_a_first_acknowledgement_counts_for_the_second_delivery_on_redis_only(
    url: str, began: list[float]
) -> None:
    with opened(url) as world:
        world.faults.inject("reset_peer", after=1)
        run = late.delay(2)
        world.simulation.advance(2.5)
        # The first body has ended and was acknowledged; the second, of the second delivery, runs.
        world.faults.inject("kill")

        world.simulation.run_until_idle()
        assert starts(world) == began
        assert world.accounts()[run.id].state == "SUCCESS"


def test_a_restarted_broker_keeps_its_messages(world: CeleryWorld) -> None:
    runs = [early.apply_async((0,), countdown=n) for n in range(3)]
    world.faults.inject("restart", target="broker", restart=3)

    world.simulation.run_until_idle()

    assert [run.get() for run in runs] == [0, 0, 0]


def test_latency_makes_every_message_late(world: CeleryWorld) -> None:
    slow = world.faults.inject("latency", by=5)
    early.delay(0).get()
    slow.heal()
    early.delay(0).get()

    assert starts(world) == [10, 10]


# Deliveries.


@pytest.mark.parametrize(("by", "began"), [(0, [0, 2]), (60, [0, 60])])
def test_a_duplicate_runs_twice(world: CeleryWorld, by: float, began: list[float]) -> None:
    world.faults.inject("duplicate", by=by)
    run, other = late.delay(2), None
    world.simulation.run_until_idle()
    other = late.delay(0)
    world.simulation.run_until_idle()

    assert starts(world)[:2] == began
    assert (world.accounts()[run.id].deliveries, world.accounts()[other.id].deliveries) == (2, 1)


def test_a_delayed_message_is_overtaken(world: CeleryWorld) -> None:
    world.faults.inject("delay", task="faults.late", by=timedelta(minutes=1))
    late.delay(0)
    early.delay(0)

    world.simulation.run_until_idle()

    tasks = [event.task for event in world.record.log() if event.kind is EventKind.STARTED]
    assert tasks == ["faults.early", "faults.late"]
    assert starts(world) == [0, 60]


@pytest.mark.parametrize(("url", "began"), [(REDIS, [0, 600]), (AMQP, [0, 2])])
def test_a_lost_acknowledgement_is_a_second_delivery(url: str, began: list[float]) -> None:
    with opened(url) as world:
        world.faults.inject("drop_ack")
        late.delay(2)

        world.simulation.run_until_idle()
        assert starts(world) == began


# Slowness, and clocks.


def test_a_slow_worker_takes_longer_for_each_body() -> None:
    with opened(workers=2) as world:
        world.faults.inject("slow", worker="worker1", by=30)
        runs = [early.delay(1), early.delay(1)]

        assert [run.get() for run in runs] == [1, 1]
        assert int(world.simulation.elapsed) == 31


def test_a_stepped_clock_moves_no_timer_of_a_worker(world: CeleryWorld) -> None:
    run = early.apply_async((0,), countdown=60)
    world.simulation.advance(1)
    before = time.time()

    world.faults.inject("clock", by=timedelta(hours=1))

    assert time.time() - before == pytest.approx(3600)
    assert run.get() == 0
    assert starts(world) == [60]


def test_an_eta_that_arrives_after_the_step_is_seen_by_the_new_clock(world: CeleryWorld) -> None:
    step = world.faults.inject("clock", by=-30)
    eta = early.apply_async((0,), countdown=60)
    step.heal()

    assert eta.get() == 0
    assert starts(world) == [30]


def test_the_history_keeps_its_order_when_the_clock_goes_back(world: CeleryWorld) -> None:
    early.delay(0).get()
    world.faults.inject("clock", by=-1_000)
    early.delay(0).get()

    kinds = [str(event.kind) for event in world.record.log()]
    assert kinds == [
        "sent",
        "received",
        "started",
        "succeeded",
        "fault",
        "sent",
        "received",
        "started",
        "succeeded",
    ]


# Beat.


@pytest.mark.parametrize(("restart", "began"), [(30, [60, 120, 180]), (200, [60, 280, 340])])
def test_a_beat_that_comes_back_knows_when_it_sent_last(
    world: CeleryWorld, restart: float, began: list[float]
) -> None:
    world.start_beat(app)
    world.faults.inject("kill", target="beat", after=80, restart=restart)

    world.simulation.advance(341)

    assert starts(world)[:3] == began


# The record, and what lasts.


def test_faults_are_in_the_history_and_in_the_digest(world: CeleryWorld) -> None:
    digest = world.record.digest()

    world.faults.inject("slow", by=1, for_=10)
    world.simulation.run_until_idle()

    told = [(event.kind, event.detail["fault"]) for event in world.record.log()]
    assert told == [("fault", "slow for=10 by=1"), ("healed", "slow for=10 by=1")]
    assert world.record.digest() != digest


def test_a_failing_test_shows_its_faults(world: CeleryWorld) -> None:
    world.faults.inject("lose_child", at="started")
    early.delay(0)
    world.simulation.run_until_idle()

    lines = render_history(world.record.log()).splitlines()

    assert [line.split()[2] for line in lines] == ["sent", "received", "started", "fault", "failed"]
    assert "fault     - on worker1@sim  (fault=lose_child at=started, run=" in lines[3]


def test_heal_ends_all_that_lasts_waits_or_is_to_come(world: CeleryWorld) -> None:
    injected = [
        world.faults.inject("pause"),
        world.faults.inject("kill", at="started"),
        world.faults.inject("down", after=0.5),
    ]

    world.faults.heal()

    assert early.delay(2).get() == 2
    assert [fault.times for fault in injected] == [1, 0, 0]
    assert all(fault.over for fault in injected)


def test_no_hook_is_in_place_without_a_fault(world: CeleryWorld) -> None:
    before = (world.at_received, world.at_body, world.at_end, world.slowness)

    for fault in [world.faults.inject(kind, at="stored") for kind in ("kill", "lose_child")]:
        fault.heal()

    assert (world.at_received, world.at_body, world.at_end, world.slowness) == before


# Mistakes.


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("kil", {}, "unknown fault 'kil'; did you mean 'kill'?"),
        ("down", {"fro_": 3}, "unknown option of the fault 'down' 'fro_'; did you mean 'for_'?"),
        ("kill", {"at": "runing"}, "unknown point of the fault 'kill' 'runing'; did you mean 'running'?"),
        ("restart", {"target": "brokr"}, "did you mean 'broker'?"),
        ("kill", {"task": "x"}, "lies in wait: say where"),
        ("term", {"times": 2}, "a term with task, times or for_ lies in wait: say where"),
        ("pause", {"task": "x", "for_": 1}, "lies in wait: say where"),
        ("pause", {"at": "started"}, "needs for_: how long it lasts"),
        ("restart", {"at": "started", "target": "broker"}, "broker runs no tasks"),
        ("bandwidth", {}, "bandwidth needs rate: a whole number of bytes, from 1 on"),
        ("slicer", {"size": 0}, "slicer needs size"),
        ("kill", {"at": "started", "into": 3}, "needs at='running'"),
        ("lose_child", {}, "needs a body to lose"),
        ("lose_child", {"at": "received"}, "needs a body to lose"),
        ("kill", {"at": "started", "times": 0}, "times must be a whole number from 1 on, got 0"),
        ("slow", {}, "by how much"),
        ("delay", {"by": -1}, "by must be a duration, got -1"),
        ("down", {"for_": -1}, "for_ must be a time that does not lie in the past, got -1"),
        ("kill", {"worker": "nobody"}, "there is no worker 'nobody' to strike (workers alive: worker1@sim)"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with opened() as world, pytest.raises((FaultError, UnknownNameError)) as caught:
        world.faults.inject(kind, **options)

    assert message in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": []}, "name some of"),
        ({"kinds": ["kil"]}, "did you mean 'kill'"),
        ({"every": (2, 1)}, "0 < low <= high"),
        ({"until": 0}, "until says for how many seconds"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_a_nemesis_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with opened() as world, pytest.raises((FaultError, UnknownNameError), match=message):
        world.faults.nemesis(**{"kinds": ["kill"], "every": (1, 2), "until": 10, **options})


# Faults that the seed draws.


@dataclass(frozen=True, kw_only=True)
class Story:
    draws: list[Fault]
    ended: bool
    accounts: Accounts
    digest: str


def under_fire(url: str, seed: int) -> Story:
    """Eight runs on two workers, ten faults; then calm, and half an hour for all to end."""
    with opened(url, seed=seed, workers=2) as world:
        nemesis = world.faults.nemesis(tuple(KINDS), every=(0.1, 4), until=40, limit=10)
        for number in range(8):
            # During an outage nobody accepts it.
            with suppress(OperationalError):
                late.apply_async((number % 4 * 0.7,), countdown=number % 3 * 5)
            world.simulation.advance(world.simulation.random.between("pace", (0, 4)))
        ended = world.simulation.wait(world.simulation.idle, timeout=1_800, what="all to end")
        return Story(
            draws=nemesis.draws, ended=ended, accounts=world.accounts(), digest=world.record.digest()
        )


@pytest.mark.parametrize("url", [REDIS, AMQP])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
def test_nothing_is_lost_with_late_acknowledgement_whatever_breaks(url: str, seed: int) -> None:
    story = under_fire(url, seed)

    assert story.draws
    assert story.ended, story
    assert [account for account in story.accounts if account.state != "SUCCESS"] == [], story


def test_one_seed_draws_the_same_faults_again() -> None:
    first, again, other = (under_fire(REDIS, seed) for seed in (7, 7, 8))

    assert first.draws == again.draws != other.draws
    assert first.digest == again.digest != other.digest


def test_a_nemesis_heals_what_it_drew(world: CeleryWorld) -> None:
    fault = Fault(kind="down")
    nemesis = world.faults.nemesis([fault], every=(1, 2), until=10, limit=1)

    world.simulation.advance(20)

    assert nemesis.draws == [fault]
    assert nemesis.over
    assert early.delay(1).get() == 1
