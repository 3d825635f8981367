"""What tests of one small Celery app cost: in our worlds, with Celery's own pytest fixtures, and eagerly.

A downstream project is written to a folder and run in fresh pytest processes. The first result is timed from
the start of the process to the first ``get()`` that returned; a test's cost is the median of many that send
a task and get its result, less that of one that does nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WAYS", "measure_ways", "write_project"]

TESTS: Final = 100
BROKER: Final = "BENCHMARK_BROKER_URL"

_APP: Final = f"""
import os

from celery import Celery

url = os.environ["{BROKER}"]
app = Celery("app", broker=url, backend=url)


@app.task(shared=True)
def add(x, y):
    return x + y
"""
_CONFTEST: Final = """
import pathlib
import statistics
import time

import pytest

ends = []


def pytest_runtest_logfinish():
    ends.append(time.perf_counter())


def pytest_unconfigure():
    spans = [later - earlier for earlier, later in zip(ends, ends[1:])]
    print(f"each={statistics.median(spans) * 1000:.4f}")


@pytest.fixture
def note_first():
    # The file system's clock: in virtual time there is no other that is everybody's.
    return pathlib.Path("first").touch if len(ends) == 0 else lambda: None
"""
# Celery's own: an app and a worker thread for the session, or for each test, on the same Redis.
_THEIRS: Final = f"""
import os

import pytest


@pytest.fixture(scope="session")
def celery_config():
    url = os.environ["{BROKER}"]
    return {{"broker_url": url, "result_backend": url}}


@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {{"perform_ping_check": False}}
"""
_BODY: Final = """
import pytest

from app import app, add


@pytest.mark.parametrize("n", range({tests}))
def test_plain(n):
    pass


@pytest.mark.parametrize("n", range({tests}))
def test_result({fixtures}note_first, n):
    {before}assert {call}(n, 1).get(timeout=10) == n + 1
    note_first()
"""


class Way:
    """One way to test: its fixtures, how it calls, and what pytest is told."""

    def __init__(self, fixtures: str, *flags: str, call: str = "add.delay", before: str = "") -> None:
        self.fixtures = f"{fixtures}, " if fixtures else ""
        self.flags = flags
        self.call = call
        self.before = f"{before}\n    " if before else ""


def _ours(world: str) -> Way:
    return Way("taskservice_backend", f"--taskservice-backend={world}", "-o", "taskservice_app=app:app")


_CELERYS: Final = ("-p", "celery.contrib.pytest", "-p", "theirs")
_SIGNED: Final = "celery_app.tasks[add.name].delay"
WAYS: Final[Mapping[str, Way]] = {
    "taskservice, celery-sim": _ours("celery-sim"),
    "taskservice, celery": _ours("celery"),
    "taskservice, celery-eager": _ours("celery-eager"),
    "eager by hand": Way("", before="app.conf.task_always_eager = True"),
    "celery.contrib.pytest, a worker a session": Way(
        "celery_session_app, celery_session_worker",
        *_CELERYS,
        call="celery_session_app.tasks[add.name].delay",
    ),
    "celery.contrib.pytest, a worker a test": Way("celery_app, celery_worker", *_CELERYS, call=_SIGNED),
}


def write_project(folder: Path) -> None:
    """Write the project; each way has a test module of its own."""
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    files = {"app.py": _APP, "conftest.py": _CONFTEST, "theirs.py": _THEIRS}
    for name, text in files.items():
        (folder / name).write_text(text)
    for number, way in enumerate(WAYS.values()):
        body = _BODY.format(tests=TESTS, fixtures=way.fixtures, before=way.before, call=way.call)
        (folder / f"test_way{number}.py").write_text(body)


def measure_ways(folder: Path, broker: str) -> dict[str, dict[str, float]]:
    """Measure every way once: seconds to the first result, milliseconds a test."""
    found = {}
    for number, (name, way) in enumerate(WAYS.items()):
        first, each = _run(folder, way, number, "test_result", broker)
        _, plain = _run(folder, way, number, "test_plain", broker)
        found[name] = {"first_result": first, "per_test": each - plain}
    return found


def _run(folder: Path, way: Way, number: int, wanted: str, broker: str) -> tuple[float, float]:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:valkey", *way.flags, "-k", wanted]
    mark = folder / "first"
    mark.unlink(missing_ok=True)
    began = time.time()
    done = subprocess.run(
        [*argv, f"test_way{number}.py"],
        cwd=folder,
        env={**os.environ, BROKER: broker},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{argv} failed:\n{done.stdout}\n{done.stderr}")

    found = re.search(r"each=([\d.]+)", done.stdout)
    assert found
    return (mark.stat().st_mtime - began if mark.exists() else 0.0), float(found[1])
