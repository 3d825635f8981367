"""Threads and processes that a test starts get real time while it sleeps and looks whether they are done."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from greenlet import greenlet

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

app = Celery("companions", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")


@app.task
def add(x: int, y: int) -> int:
    return x + y


def compute() -> None:
    for _ in range(300_000):
        pass


def looked_for(done: Callable[[], bool]) -> bool:
    """Do what suites do that wait for something: look, sleep, and look again."""
    end = time.time() + 5
    while not done() and time.time() < end:
        time.sleep(0.1)
    return done()


@pytest.fixture(autouse=True)
def simulation() -> Iterator[CelerySimDriver]:
    """The simulation that each test runs in."""
    driver = CelerySimDriver(options=SimulatorOptions())
    driver.begin(app, {})
    yield driver
    driver.reset()


def test_a_thread_that_computes_is_waited_for() -> None:
    thread = threading.Thread(target=compute)
    thread.start()

    assert looked_for(lambda: not thread.is_alive())


def test_a_thread_is_not_taken_for_one_that_had_its_number(simulation: CelerySimDriver) -> None:
    simulation.reset()
    go = threading.Event()
    before = threading.Thread(target=go.wait)
    before.start()
    simulation.begin(app, {})
    go.set()
    before.join()

    thread = threading.Thread(target=compute)
    thread.start()

    assert looked_for(lambda: not thread.is_alive())


def test_a_thread_that_was_blocked_may_go_on() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        compute()
        done.set()

    threading.Thread(target=work).start()
    time.sleep(1)

    go.set()

    assert looked_for(done.is_set)


def test_a_thread_that_asks_for_results_is_waited_for() -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(add.delay(1, 2).get(timeout=2)))
    thread.start()

    assert looked_for(lambda: results == [3])


def test_no_call_of_ours_in_a_thread_holds_its_greenlet() -> None:
    # When the thread ends greenlet frees it, even if the call's frame is garbage just then: Python crashes.
    held: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        ours = frame.f_globals.get("__name__", "").startswith("pytest_taskservice")
        if ours and event == "return" and any(type(each) is greenlet for each in frame.f_locals.values()):
            held.append(frame.f_code.co_qualname)

    def work() -> None:
        sys.setprofile(note)
        assert add.delay(1, 2).get(timeout=5) == 3

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert held == []


def test_a_process_that_is_asked_for_has_as_long_as_the_test_sleeps() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])

    assert looked_for(lambda: process.poll() is not None)
    assert process.returncode == 0


def test_a_process_that_nobody_asks_for_has_it_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("made") / "file"

    with subprocess.Popen([sys.executable, "-c", f"open({str(file)!r}, 'w').close()"]):
        assert looked_for(file.exists)


def test_a_process_from_before_has_it_from_the_first_question_on(simulation: CelerySimDriver) -> None:
    simulation.reset()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    simulation.begin(app, {})

    process.terminate()

    assert looked_for(lambda: process.poll() is not None)
    process.communicate()


def test_a_process_of_multiprocessing_is_waited_for() -> None:
    process = multiprocessing.get_context("spawn").Process(target=len, args=("abc",))
    process.start()

    assert looked_for(lambda: not process.is_alive())
    assert process.exitcode == 0


def test_a_thread_that_computes_in_one_place_is_waited_for() -> None:
    thread = threading.Thread(target=lambda: sum(range(6_000_000)))
    thread.start()

    assert looked_for(lambda: not thread.is_alive())


def test_a_thread_that_stays_blocked_costs_nearly_nothing() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait, daemon=True)
    thread.start()
    before = time.thread_time()

    for _ in range(100):
        time.sleep(1)

    assert time.thread_time() - before < 1
    go.set()
    thread.join()
