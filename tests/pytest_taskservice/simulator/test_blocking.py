"""What would hang is ended and told: bodies that block for real, polls without end, waits in a ring."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.errors import SimulationBlockedError, SimulationIdleError

app = Celery("blocking", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")
lock = threading.Lock()


@app.task
def hold(seconds: float) -> None:
    with lock:
        time.sleep(seconds)


@app.task
def spin() -> None:
    while True:
        pass


@app.task
def swallow() -> str:
    while True:
        try:
            spin()
        except Exception:  # noqa: BLE001 - as some code does
            continue


@app.task
def wait_for(run: str) -> Any:
    return app.AsyncResult(run).get()


@app.task
def wait_anyway(run: str) -> Any:
    return app.AsyncResult(run).get(disable_sync_subtasks=False)


@pytest.fixture
def driver() -> Iterator[CelerySimDriver]:
    """A simulation that loses its patience soon."""
    found = CelerySimDriver(options=SimulatorOptions(patience=0.2))
    found.begin(app, {})
    yield found
    found.reset()


def test_a_body_that_waits_for_a_lock_of_another_is_told_with_its_line(driver: CelerySimDriver) -> None:
    hold.delay(3600)
    second = hold.delay(1)

    with pytest.raises(SimulationBlockedError) as caught:
        second.get()

    assert caught.value.who == f"task {hold.name}[{second.id}]"
    assert caught.value.place.endswith(" in hold")
    assert "0.2 real seconds" in str(caught.value)
    assert any("worker1@sim runs" in line for line in caught.value.waiting)


@pytest.mark.parametrize("task", [spin, swallow])
def test_a_body_that_never_ends_is_ended(driver: CelerySimDriver, task: Any) -> None:
    with pytest.raises(SimulationBlockedError, match="in spin"):
        task.delay().get()


def test_a_slow_test_is_nobodys_business(driver: CelerySimDriver) -> None:
    threading.Event().wait(0.5)

    assert driver.world.simulation.failure is None


def test_the_signal_is_given_back() -> None:
    before = signal.getsignal(signal.SIGURG)
    found = CelerySimDriver(options=SimulatorOptions())

    found.begin(app, {})
    during = signal.getsignal(signal.SIGURG)
    found.reset()

    assert during != before
    assert signal.getsignal(signal.SIGURG) == before


def test_polling_for_what_never_comes_ends(driver: CelerySimDriver) -> None:
    never = app.AsyncResult("never")

    def poll() -> None:
        while not never.ready():
            time.sleep(0.1)

    with pytest.raises(SimulationIdleError, match=r"10,000 times time.sleep\(0.1\)"):
        poll()


def test_polling_a_queue_for_what_never_comes_ends(
    driver: CelerySimDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_taskservice.simulator.core.simulation._POLLS", 100)
    beside = Celery("beside", broker="memory://", backend="rpc://")
    sent = beside.send_task("nobody.serves.this")

    def poll() -> None:
        for _ in range(1000):
            assert not sent.ready()
            time.sleep(0.1)

    with pytest.raises(SimulationIdleError, match="queue 'celery' holds nobody"):
        poll()


def wait_for_events() -> None:
    with app.connection() as connection:
        app.events.Receiver(connection, handlers={}).capture(limit=None, timeout=None)


def wait_for_a_message() -> None:
    with app.connection() as connection:
        queue = connection.SimpleQueue("nothing")
        while True:
            with suppress(queue.Empty):
                queue.get(timeout=1)


def ask_without_a_pause() -> None:
    never = app.AsyncResult("never")
    while not never.ready():
        pass


@pytest.mark.parametrize(
    ("poll", "told"),
    [
        (wait_for_events, "a message, 10,000 times"),
        (wait_for_a_message, "a message, 10,000 times"),
        (ask_without_a_pause, "a result, asked for 10,000 times"),
    ],
)
def test_waiting_again_and_again_for_what_never_comes_ends(
    driver: CelerySimDriver, poll: Callable[[], None], told: str
) -> None:
    with pytest.raises(SimulationIdleError, match=told):
        poll()


@pytest.mark.parametrize("pause", [None, 0.1])
def test_polling_for_what_comes_does_not(driver: CelerySimDriver, pause: float | None) -> None:
    late = hold.apply_async((1,), countdown=3600)
    asked = 0

    while not late.ready():
        asked += 1
        if pause is not None:
            time.sleep(pause)

    assert late.successful()
    # An hour of answers that take half a millisecond each would be millions.
    assert asked < 40_000


def test_a_task_may_not_wait_for_a_result(driver: CelerySimDriver) -> None:
    with pytest.raises(RuntimeError, match="Never call result"):
        wait_for.delay("any").get()


def test_tasks_that_wait_for_each_other_are_told(driver: CelerySimDriver) -> None:
    one = wait_anyway.apply_async(("two",), task_id="one")
    wait_anyway.apply_async(("one",), task_id="two")

    with pytest.raises(SimulationIdleError) as caught:
        one.get()

    assert {line for line in caught.value.waiting if " runs " in line} == {
        f"worker1@sim runs {wait_anyway.name}[{run}]" for run in ("one", "two")
    }
