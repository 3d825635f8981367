"""Faults of one client's way to the simulated broker: a worker's or the beat's, while all others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.errors import FaultError
from pytest_taskservice.history import EventKind
from tests.pytest_taskservice.simulator.faulty import AMQP, REDIS, app, early, late, opened, starts

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.world import CeleryWorld

FIRST, SECOND = "worker1@sim", "worker2@sim"


def started_by(world: CeleryWorld) -> list[tuple[int, str]]:
    """Whole seconds at which bodies began, and whose they were."""
    return [
        (int(event.at - world.simulation.start), event.worker)
        for event in world.record.log()
        if event.kind is EventKind.STARTED
    ]


@pytest.mark.parametrize("kind", ["down", "timeout"])
def test_a_worker_without_a_way_gets_nothing_until_it_is_back(kind: str) -> None:
    with opened(workers=2) as world:
        cut = world.faults.inject(kind, worker="worker1", for_=30)
        for _ in range(4):
            early.delay(1)
        world.simulation.run_until_idle()
        assert {worker for _, worker in started_by(world)} == {SECOND}

        # Celery tries again each two seconds longer than before.
        world.simulation.advance(30)
        for _ in range(8):
            early.delay(1)
        world.simulation.run_until_idle()
        assert {worker for _, worker in started_by(world)[4:]} == {FIRST, SECOND}
        assert (cut.times, cut.over) == (1, True)


@pytest.mark.parametrize(("url", "began"), [(REDIS, [0, 600]), (AMQP, [0, 1])])
def test_what_a_worker_has_that_is_cut_off_goes_to_another_as_its_broker_has_it(
    url: str, began: list[int]
) -> None:
    with opened(url) as world:
        late.delay(900)
        world.simulation.advance(0.5)
        world.start_worker(app, concurrency=1)
        world.faults.inject("down", worker=FIRST, after=1)

        world.simulation.advance(700)

        assert started_by(world) == list(zip(began, [FIRST, SECOND], strict=True))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("latency", {"by": 5}), ("bandwidth", {"rate": 100}), ("slicer", {"size": 100, "by": 1})],
)
def test_a_slow_way_makes_one_worker_late(kind: str, options: dict[str, Any]) -> None:
    with opened(workers=2) as world:
        world.faults.inject(kind, worker=FIRST, **options)
        runs = [early.delay(20), early.delay(20)]
        assert world.simulation.elapsed < 1

        world.simulation.run_until_idle()

        told = {worker: at for at, worker in started_by(world)}
        assert told[SECOND] == 0
        assert 4 < told[FIRST] < 30
        assert [run.get() for run in runs] == [20, 20]


def test_messages_to_a_late_worker_stay_in_order(world: CeleryWorld) -> None:
    slow = world.faults.inject("latency", worker="worker*", by=5, for_=1)
    first = early.delay(0)
    world.simulation.advance(2)
    assert slow.over
    second = early.delay(0)
    world.simulation.run_until_idle()

    began = [event.run for event in world.record.log() if event.kind is EventKind.STARTED]
    assert began == [first.id, second.id]
    assert starts(world) == [5, 5]


def test_the_beat_alone_may_be_without_a_way(world: CeleryWorld) -> None:
    world.start_beat(app)
    world.faults.inject("timeout", target="beat", after=30, for_=50)
    world.simulation.advance(40)
    assert early.delay(1).get() == 1

    world.simulation.advance(45)

    # The beat's own, which was due after a minute, waited until the silence was over.
    assert starts(world) == [40, 80]


def test_who_is_not_there_has_no_way_to_break(world: CeleryWorld) -> None:
    with pytest.raises(FaultError, match=r"down: there is no worker 'worker7' to strike .*worker1@sim"):
        world.faults.inject("down", worker="worker7")
    with pytest.raises(FaultError, match="latency: there is no beat to strike"):
        world.faults.inject("latency", by=1, target="beat")


def test_a_way_of_ones_own_suffers_what_is_on_all_ways(world: CeleryWorld) -> None:
    world.faults.inject("latency", by=2)
    alone = world.faults.inject("latency", by=3, worker=FIRST)

    early.apply_async((0,), ignore_result=True)
    world.simulation.run_until_idle()
    assert int(world.simulation.elapsed) == 2 + 2 + 3

    alone.heal()
    early.apply_async((0,), ignore_result=True)
    world.simulation.run_until_idle()
    assert int(world.simulation.elapsed) == 7 + 2 + 2
