"""A worker that does not come up: the wait is bounded, and says what did not come."""

from __future__ import annotations

import time

import pytest

APP = """
import sys
import threading

from celery import Celery

app = Celery("stuck", broker="amqp://nowhere.invalid", backend="rpc://")

if "_pytest" not in sys.modules:
    print("asking the licence server", flush=True)
    threading.Event().wait(60)
"""

TESTS = """
def test_one(taskservice_app): ...


def test_another(taskservice_app): ...
"""


def test_a_worker_that_hangs_at_its_start_is_given_up(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(stuck=APP, test_stuck=TESTS)
    pytester.makeini("[pytest]\ntaskservice_app = stuck:app\npythonpath = .\n")
    begin = time.monotonic()

    result = pytester.runpytest_subprocess(
        "-p", "no:valkey", "--taskservice-backend=celery", "--taskservice-timeout=3"
    )

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["taskservice: the worker did not come up within 3 s*", "*asking the licence server*"]
    )
    assert time.monotonic() - begin < 30
    assert "pytest_taskservice/" not in result.stdout.str()


def test_without_any_option_the_summary_names_the_redis(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(taskservice_backend): ...")

    result = pytester.runpytest_subprocess("-p", "no:valkey")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["taskservice: celery worker: prefork x2, worker up in * · Redis: * *"])
