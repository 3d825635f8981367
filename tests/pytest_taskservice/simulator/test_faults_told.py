"""How faults in a simulated world are told, healed, refused and drawn."""

from __future__ import annotations

import pickle
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from pytest_taskservice.errors import FaultError, UnknownNameError
from pytest_taskservice.report.history import render_history
from pytest_taskservice.simulator.celery.fault_values import KINDS, Fault
from tests.pytest_taskservice.simulator.faulty import AMQP, REDIS, early, late, opened

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.accounts import Accounts
    from pytest_taskservice.simulator.celery.world import CeleryWorld

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
