"""What the celery world costs a session: the time to its first result, and the overhead of each test.

Runs a small downstream project in fresh pytest processes. The first result is timed inside pytest, from the
start of the session to the first ``get()`` that returned; the overhead is the difference between tests that
ask for the world and do nothing, and tests that do not. Promises: 0.8 s and 5 ms.

    python benchmarks/session.py [RUNS]
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FIRST_RESULT_PROMISE = 0.8
PER_TEST_PROMISE_MS = 5.0
TESTS = 300

FILES = {
    "pyproject.toml": '[tool.pytest.ini_options]\ntaskservice_app = "app:app"\npythonpath = ["."]\n',
    "app.py": """
from celery import Celery

app = Celery("app", broker="amqp://nowhere.invalid", backend="rpc://")


@app.task
def add(x, y):
    return x + y
""",
    "conftest.py": """
import time

import pytest

started = 0.0
ends = []


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    global started
    started = time.perf_counter()


def pytest_runtest_logfinish():
    ends.append(time.perf_counter())


def pytest_unconfigure():
    # Not the first: it has waited for the worker.
    if len(ends) > 2:
        print(f"each={(ends[-1] - ends[1]) / (len(ends) - 2) * 1000:.4f}")
""",
    "test_first.py": """
import time
import sys

from app import add


def test_first(taskservice_backend):
    assert add.delay(1, 2).get(timeout=10) == 3
    print(f"first={time.perf_counter() - sys.modules['conftest'].started:.4f}")
""",
    "test_many.py": f"""
import pytest

from app import add


@pytest.mark.parametrize("n", range({TESTS}))
def test_plain(n):
    pass


@pytest.mark.parametrize("n", range({TESTS}))
def test_world(taskservice_backend, n):
    pass


@pytest.mark.parametrize("n", range({TESTS}))
def test_result(taskservice_backend, n):
    assert add.delay(n, 1).get(timeout=10) == n + 1
""",
}


def main() -> int:
    """Measure, print a table and one line of JSON; fail if a promise is broken."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, text in FILES.items():
            (directory / file).write_text(text)
        pytest(directory, "test_first.py")  # compiles
        first = statistics.median(first_result(directory) for _ in range(runs))
        plain, world, result = (
            statistics.median(per_test(directory, test) for _ in range(3))
            for test in ("test_plain", "test_world", "test_result")
        )
    figures = {
        "first_result_s": round(first, 3),
        "overhead_ms": round(world - plain, 2),
        "result_ms": round(result - plain, 2),
    }
    overhead = figures["overhead_ms"]
    print(
        f"first result of a session   {first:7.3f} s   (promised: {FIRST_RESULT_PROMISE:g}; median of {runs})"
    )
    print(f"overhead of the world       {overhead:7.2f} ms  a test (promised: {PER_TEST_PROMISE_MS:g})")
    print(f"a test that gets a result   {figures['result_ms']:7.2f} ms")
    print(json.dumps(figures))
    return 0 if first <= FIRST_RESULT_PROMISE and overhead <= PER_TEST_PROMISE_MS else 1


def first_result(directory: Path) -> float:
    """Return the seconds from the session's start to its first result."""
    found = re.search(r"first=([\d.]+)", pytest(directory, "test_first.py", "-s"))
    assert found
    return float(found[1])


def per_test(directory: Path, test: str) -> float:
    """Return the milliseconds of one of many like tests: set-up, call and teardown, without the first."""
    found = re.search(r"each=([\d.]+)", pytest(directory, "test_many.py", "-k", test))
    assert found
    return float(found[1])


def pytest(directory: Path, *options: str) -> str:
    """Run one pytest process in the celery world and return its output."""
    command = [sys.executable, "-m", "pytest", "-p", "no:valkey", "--taskservice-backend=celery", *options]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
