"""Hunting a race with ``find``: without pytest's help, over an app that is nobody's but these tests'."""

from __future__ import annotations

import time

import pytest
from celery import Celery

from pytest_taskservice.errors import HarnessError
from pytest_taskservice.hunting import CelerySim, find

app = Celery("hunted", broker="redis://localhost/0", backend="redis://localhost/0", set_as_current=False)
stock = {"left": 0}


@app.task(shared=False)
def reserve() -> int:
    left = stock["left"]
    time.sleep(0.001)
    stock["left"] = left - 1
    return left - 1


def both_are_counted() -> None:
    stock["left"] = 10
    runs = [reserve.delay(), reserve.apply_async(countdown=0.004)]
    for run in runs:
        run.get()
    assert stock["left"] == 8, "one reservation was lost"


def one_is_counted() -> None:
    stock["left"] = 10
    assert reserve.delay().get() == 9


def test_a_race_is_found() -> None:
    found = find(app, both_are_counted, seeds=200)

    assert found is not None
    assert isinstance(found.error, AssertionError)
    assert [event.task for event in found.history if event.kind == "sent"] == [reserve.name] * 2


def test_what_is_found_is_found_again_with_its_seed_alone() -> None:
    first = find(app, both_are_counted, seeds=200)
    assert first is not None

    again = find(app, both_are_counted, start_at=first.seed, seeds=1)

    assert again is not None
    assert again.digest == first.digest


def test_the_story_told_needs_less_chance_than_the_one_that_was_found() -> None:
    found = find(app, both_are_counted, seeds=200)

    assert found is not None
    assert found.shrunk.replayed
    assert found.shrunk.draws < found.story.draws
    assert found.shrunk.story.elapsed < found.story.elapsed


def test_a_finding_is_read_as_its_story() -> None:
    found = find(app, both_are_counted, seeds=200)

    lines = repr(found).splitlines()

    assert found is not None
    assert lines[0] == f"seed {found.seed}: AssertionError: one reservation was lost"
    assert sum("reserve#1 started" in line for line in lines) == 1
    assert sum("reserve#2 sleeps (0.001 s)" in line for line in lines) == 1
    assert lines[-1] == f"  replay:  find(check, start_at={found.seed}, seeds=1)"


def test_what_always_holds_is_never_found() -> None:
    assert find(app, one_is_counted, seeds=10) is None


def test_a_check_may_use_its_simulation() -> None:
    seen = []

    def check(sim: CelerySim) -> None:
        sim.start_worker(hostname="only@sim", concurrency=1)
        run = reserve.apply_async(countdown=3600)
        sim.advance(hours=2)
        assert run.ready()
        seen.append((sim.seed, {event.worker for event in sim.history if event.worker}, sim.now().hour))

    assert find(app, check, seeds=2, start_at=5) is None
    assert seen == [(5, {"only@sim"}, 2), (6, {"only@sim"}, 2)]


def test_a_skip_ends_the_hunt_and_is_no_finding() -> None:
    def check() -> None:
        pytest.skip("not today")

    with pytest.raises(pytest.skip.Exception):
        find(app, check, seeds=3)


def test_pytests_own_failure_is_a_finding() -> None:
    def check() -> None:
        pytest.fail("this is wrong")

    found = find(app, check, seeds=3)

    assert found is not None
    assert found.title == "seed 0: Failed: this is wrong"


def test_a_check_that_cannot_be_run_is_refused() -> None:
    async def late() -> None: ...

    def greedy(one: int, other: int) -> None: ...

    with pytest.raises(HarnessError, match=r"late\(\) is async: a check is a plain function"):
        find(app, late)
    with pytest.raises(HarnessError, match="needs 2 arguments: a check takes none, or the simulation"):
        find(app, greedy)
    with pytest.raises(ValueError, match="need at least one seed, from 0 on; got seeds=0"):
        find(app, one_is_counted, seeds=0)
