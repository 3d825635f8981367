"""Faults of a simulated broker and the way to it, and what Celery really does about each."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from pytest_taskservice.errors import SimulationIdleError
from pytest_taskservice.history import EventKind
from tests.pytest_taskservice.simulator.faulty import AMQP, REDIS, early, late, opened, starts

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.world import CeleryWorld

# The broker, and the way to it.


def test_an_outage_refuses_to_publish_until_it_is_over(world: CeleryWorld) -> None:
    outage = world.faults.inject("down")

    with pytest.raises(OperationalError, match="the simulated broker is down"):
        early.apply_async((1,), ignore_result=True)
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
        late.apply_async((300,), ignore_result=True)
        world.faults.inject("timeout", after=200, for_=1_000)

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
    early.apply_async((0,), ignore_result=True)
    world.simulation.run_until_idle()
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
