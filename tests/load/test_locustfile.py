"""``locust -f loadtests/locustfile.py``: users that do not block each other, a master and its worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from taskservice.programs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
SECONDS = 60

# One user waits for a task that takes long, the others for tasks that take no time.
PATIENT = """
import gevent

from taskservice.load.locustfile import *
from taskservice.load.users import TaskUser as Base


class Slow(Base):
    fixed_count = 1

    def play(self, due):
        self.launch("load.nap", [30.0], due=due).wait()


class Quick(Base):
    def play(self, due):
        self.launch("load.noop", due=due).wait()
        gevent.sleep(0.02)


del TaskUser, WorkflowUser, CeleryUser, StoryUser, ApiUser, Base
"""


class Locusts:
    """Starts Locust, ends what still runs, and reads the account."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.result = folder / "account.json"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, file: Path, *argv: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKSERVICE_")}
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "locust",
                "-f",
                str(file),
                "--loglevel",
                "WARNING",
                "--only-summary",
                *argv,
            ],
            cwd=self._folder,
            env={**clean, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=pass_fds,
        )
        self._started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> str:
        out, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, out
        return out

    def account(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.result.read_text())["account"]
        return found

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def locusts(tmp_path: Path) -> Iterator[Locusts]:
    """Locust processes."""
    started = Locusts(tmp_path)
    yield started
    started.end()


def test_no_wait_blocks_another_user(locusts: Locusts, tmp_path: Path) -> None:
    file = tmp_path / "patient.py"
    file.write_text(PATIENT)

    out = locusts.finish(
        locusts.start(
            file, "--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "2s", "--load-drain", "0s",
            "--load-backend", "anyio", "--load-result", str(locusts.result),
        )
    )  # fmt: skip

    account = locusts.account()
    assert 1 <= account["ends"]["taken"] <= 4
    assert account["ends"]["done"] > 30
    assert account["ends"]["done"] + account["ends"]["taken"] <= account["arrivals"]
    assert "load.noop" in out


def test_a_worker_that_dies_leaves_its_runs_unknown(locusts: Locusts) -> None:
    port, file = str(free_port()), ROOT / "loadtests" / "locustfile.py"
    plan = ["--load-backend", "anyio", "--load-task", "load.nap", "--load-args", "[60]", "--load-drain", "0s"]
    reader, writer = os.pipe()

    master = locusts.start(
        file, "--master", "--headless", "--expect-workers", "1", "--users", "3", "--spawn-rate", "3",
        "--run-time", "60s", "--master-bind-port", port, "--load-result", str(locusts.result),
        "TaskUser", *plan, "--load-progress", str(writer), pass_fds=[writer],
    )  # fmt: skip
    worker = locusts.start(file, "--worker", "--master-port", port, "TaskUser", *plan)
    os.close(writer)
    with os.fdopen(reader) as progress:
        next(line for line in progress if json.loads(line)["arrivals"] == 3)
    worker.kill()
    out, _ = master.communicate(timeout=SECONDS)

    account = locusts.account()
    assert account["ends"] == {"unknown": 3}, out
    assert "died" in account["notes"][0]


def test_a_mistake_in_a_flag_is_a_line_and_exit_code_2(locusts: Locusts) -> None:
    process = locusts.start(
        ROOT / "loadtests" / "locustfile.py", "TaskUser", "--headless", "--load-rate", "fast"
    )

    out, _ = process.communicate(timeout=SECONDS)

    assert process.returncode == 2
    assert out.strip() == "taskservice: found 'fast'; write a rate above 0 such as 500/s or 30/m"
