"""Hunting a race with ``find``: without pytest's help, over an app that is nobody's but these tests'."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from pytest_taskservice.errors import HarnessError
from pytest_taskservice.hunting import CelerySim, find

if TYPE_CHECKING:
    from pathlib import Path

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
    with pytest.raises(ValueError, match="need at least one process; got processes=0"):
        find(app, one_is_counted, processes=0)


def test_several_processes_find_what_one_finds() -> None:
    alone = find(app, both_are_counted, seeds=200)

    together = find(app, both_are_counted, seeds=200, processes=3)

    assert alone is not None
    assert together is not None
    assert (together.seed, together.digest) == (alone.seed, alone.digest)
    assert repr(together) == repr(alone)


def test_the_first_seed_is_played_here_and_each_other_one_by_one_process(tmp_path: Path) -> None:
    def check(sim: CelerySim) -> None:
        with (tmp_path / str(os.getpid())).open("a") as played:
            played.write(f"{sim.seed} ")

    assert find(app, check, seeds=10, start_at=20, processes=3) is None

    played = {path.name: [int(seed) for seed in path.read_text().split()] for path in tmp_path.iterdir()}
    assert played.pop(str(os.getpid())) == [20]
    assert sorted(played.values()) == [[21, 24, 27], [22, 25, 28], [23, 26, 29]]


def test_a_skip_in_another_process_ends_the_hunt_too() -> None:
    def check(sim: CelerySim) -> None:
        if sim.seed == 4:
            pytest.skip("not that one")

    with pytest.raises(pytest.skip.Exception, match="not that one"):
        find(app, check, seeds=9, processes=2)


def test_what_fails_in_another_process_alone_is_told_with_its_traceback() -> None:
    here = os.getpid()

    def check(sim: CelerySim) -> None:
        assert os.getpid() == here or sim.seed < 5, "not at home"

    with pytest.raises(HarnessError, match=r"(?s)seed 5 failed in a process of its own .* not at home"):
        find(app, check, seeds=9, processes=2)


def test_a_process_that_dies_is_told_with_its_seed() -> None:
    here = os.getpid()

    def check(sim: CelerySim) -> None:
        if sim.seed == 6 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(HarnessError, match="a process that played seed 6 ended with signal 9, and said noth"):
        find(app, check, seeds=9, processes=2)
