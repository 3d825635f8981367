"""Suites that have Celery's own fixtures: an app of each test, and a worker that learns while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

CONFTEST = """
import pytest

pytest_plugins = ("celery.contrib.pytest",)


@pytest.fixture(scope="session")
def celery_config():
    return {"task_default_queue": "special", "accept_content": {"json"}}
"""

TESTS = """
from celery import shared_task


@shared_task
def double(x):
    return x * 2


def test_one(celery_app, taskservice_backend):
    assert celery_app.conf.task_default_queue == "special"
    assert double.delay(2).get(timeout=5) == 4


def test_another(taskservice_app, celery_app):
    assert taskservice_app is celery_app
    assert double.delay(3).get(timeout=5) == 6
"""

ABSENT = """
import sys

import pytest
from celery import Celery

app = Celery("absent", broker="amqp://nowhere.invalid", backend="rpc://")


@app.task
def pid():
    import os

    return os.getppid()


if "pytest_taskservice.plugin" in sys.modules:

    @app.task
    def only_here():
        return 1


WORKERS = set()


@pytest.fixture
def taskservice_app():
    return app


@pytest.mark.parametrize("n", range(3))
def test_the_worker_stays(taskservice_app, n):
    WORKERS.add(pid.delay().get(timeout=5))

    assert len(WORKERS) == 1


def test_the_absent_one_is_explained(taskservice_app):
    only_here.delay().get(timeout=5)
"""

LEARNING = """
import pytest

pytest_plugins = ["pytest_taskservice.celery_compat"]


def test_a_worker_learns_while_messages_come_in(celery_session_app, celery_session_worker):
    @celery_session_app.task
    def known():
        return 1

    def later():
        return 2

    celery_session_worker.reload()
    for n in range(150):
        celery_session_app.task(name=f"later.{n}")(later)
    results = [known.delay() for _ in range(300)]
    celery_session_worker.reload()

    assert [result.get(timeout=20) for result in results] == [1] * 300
"""


def test_an_app_of_one_test_is_served_and_the_next_one_too(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)

    result = pytester.runpytest_subprocess("-p", "no:valkey", "--taskservice-backend=celery,celery-eager")

    result.assert_outcomes(passed=4)


def test_a_task_that_no_worker_can_find_starts_no_worker_for_every_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ABSENT)

    result = pytester.runpytest_subprocess("-p", "no:valkey", "--taskservice-backend=celery")

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*has imported the module of task '*.only_here' and found no such task"])


def test_a_worker_that_learns_goes_on_with_what_it_knew(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LEARNING)

    result = pytester.runpytest_subprocess("-p", "no:valkey", "--taskservice-backend=celery")

    result.assert_outcomes(passed=1)


def test_a_worker_that_a_test_makes_in_a_thread_is_one_of_the_simulation(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import threading
        import time

        from celery import Celery

        beside = Celery("beside", broker="memory://", backend="rpc://")

        @beside.task
        def double(x):
            return x * 2

        def test_stopped(taskservice_app):
            worker = beside.Worker(app=beside, pool="solo", concurrency=1)
            thread = threading.Thread(target=worker.start, daemon=True)
            thread.start()
            assert double.delay(2).get(timeout=5) == 4
            worker.stop()
            thread.join()

        def test_by_the_command_line(taskservice_app):
            arguments = ["worker", "--pool=solo"]
            threading.Thread(target=beside.worker_main, args=[arguments], daemon=True).start()
            result = double.delay(3)
            while not result.ready():
                time.sleep(0.1)
            assert result.get() == 6

        def test_not_stopped_and_waited_for_at_once(taskservice_app):
            arguments = ["worker", "--pool=solo"]
            threading.Thread(target=beside.worker_main, args=[arguments], daemon=True).start()
            assert double.delay(4).get(timeout=5) == 8

        def test_the_same_app_again(taskservice_app):
            worker = beside.Worker(app=beside, pool="solo")
            threading.Thread(target=worker.start, daemon=True).start()
            assert double.delay(5).get(timeout=5) == 10

        def test_here(taskservice_app):
            beside.Worker(app=beside, pool="solo").start()
        """
    )

    result = downstream.run("-rs", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=4, skipped=1)
    result.stderr.no_fnmatch_line("*Exception in thread*")
    result.stdout.fnmatch_lines(
        "SKIPPED*celery-sim cannot: Worker.start() in the test's own thread (it would hold the test*"
    )
