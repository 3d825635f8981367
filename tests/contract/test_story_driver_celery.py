"""What a scenario asks of a real world: workers, canvases, and a beat."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.drivers.base import TaskCall
from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.acts import FaultCall
from pytest_taskservice.scenario.model import Config, Entry, Workers
from tests.contract.worker_stories import MARK, add, call, eventually, kinds, slow, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver

pytestmark = pytest.mark.thorough


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
    heard = driver.launch(TaskCall(task=add.name, args=(1, 2), queue="fast"))
    unheard = driver.launch(TaskCall(task=add.name, args=(1, 2), queue="elsewhere"))
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
