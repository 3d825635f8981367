from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import celery
import pytest
from celery.exceptions import SoftTimeLimitExceeded

from pytest_taskservice.drivers.synthetic import SYNTHETIC, register
from pytest_taskservice.scenario.behaviour import Behaviour, Retry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    """A Celery app of its own, with no broker and no file of settings."""
    app = celery.Celery("t", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.mark.parametrize("first", ["drivers.synthetic", "scenario.engine", "scenario.load"])
def test_each_module_may_be_imported_first_and_loads_nothing_else(first: str) -> None:
    heavy = "{'celery', 'yaml', 'redis', 'pytest'}"
    code = f"import sys, pytest_taskservice.{first}; sys.exit(str({heavy} & set(sys.modules)))"

    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert done.stderr.strip() == "set()"


def test_registering_twice_gives_the_same_task(app: celery.Celery) -> None:
    task = register(app)

    assert register(app) is task
    assert app.tasks[SYNTHETIC] is task


def test_no_other_app_gets_the_task(app: celery.Celery) -> None:
    other = celery.Celery("other", set_as_current=False)
    register(app)

    assert SYNTHETIC not in other.tasks


def test_it_returns_what_the_behaviour_says(app: celery.Celery) -> None:
    result = register(app).apply(args=(Behaviour(returns=[1, None]).to_json(),))

    assert (result.state, result.result) == ("SUCCESS", [1, None])


def test_it_fails_with_the_named_exception(app: celery.Celery) -> None:
    result = register(app).apply(args=(Behaviour(fails_with="OSError: no bank").to_json(),))

    assert result.state == "FAILURE"
    assert repr(result.result) == "OSError('no bank')"


@pytest.mark.parametrize(
    ("fails_times", "max_attempts", "state"),
    [(2, 3, "SUCCESS"), (3, 3, "FAILURE"), (1, 1, "FAILURE"), (5, 6, "SUCCESS")],
)
def test_it_is_tried_again_so_many_times(
    app: celery.Celery, fails_times: int, max_attempts: int, state: str
) -> None:
    retry = Retry(max_attempts=max_attempts)
    behaviour = Behaviour(fails_times=fails_times, returns="paid", retry=retry)

    result = register(app).apply(args=(behaviour.to_json(),))

    assert result.state == state


@pytest.mark.parametrize(("ignores", "state"), [(False, "FAILURE"), (True, "SUCCESS")])
def test_it_ends_at_the_soft_limit_unless_told_to_ignore_it(
    app: celery.Celery, *, ignores: bool, state: str
) -> None:
    def limit(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, limit)
    behaviour = Behaviour(runs_for=0.1, ignores_soft_limit=ignores, retry=Retry(max_attempts=9))
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        result = register(app).apply(args=(behaviour.to_json(),))
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)

    assert result.state == state
