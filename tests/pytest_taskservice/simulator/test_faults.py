"""Faults of a simulated worker, its beat and its clock, and what Celery really does about each."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.errors import SimulationIdleError
from pytest_taskservice.history import EventKind
from tests.pytest_taskservice.simulator.faulty import AMQP, REDIS, app, early, late, late_only, opened, starts

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.world import CeleryWorld

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


def test_a_message_under_way_is_named_among_what_is_to_come(world: CeleryWorld) -> None:
    world.faults.inject("delay", by=3600)
    run = early.delay(1)

    assert f"on its way to 'celery': {early.name}[{run.id}]" in world.simulation.waiting_for()


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
