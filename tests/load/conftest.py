"""`taskservice load` in a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from taskservice.load.guard import Children
from taskservice.load.servers import start_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 90
COMMAND = [sys.executable, "-c", "from taskservice.cli import main; main()", "load"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What a run came to."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "load-report" / "report.json").read_text())
        return found


class LoadCommand:
    """Runs it; every process of it has a mark in its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"mark-{uuid4().hex}"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKSERVICE_")}
        path = os.pathsep.join([str(self.folder), *filter(None, sys.path)])
        process = subprocess.Popen(
            [*COMMAND, *argv],
            cwd=self.folder,
            env={**clean, "PYTHONPATH": path, "LOAD_TEST_MARK": self.mark, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *argv: str, **environment: str) -> Loaded:
        return self.finish(self.start(*argv, **environment))

    def finish(self, process: subprocess.Popen[str]) -> Loaded:
        out, err = process.communicate(timeout=SECONDS)
        return Loaded(code=process.returncode, out=out, err=err, folder=self.folder)

    def living(self) -> list[str]:
        """Return the command lines of all processes that descend from ours and are not over."""
        return [line for line in map(self._marked, Path("/proc").glob("[0-9]*")) if line]

    def await_line(self, process: subprocess.Popen[str], wanted: str) -> str:
        """Read what it says until a line has ``wanted`` in it, and return that."""
        assert process.stderr is not None
        for line in process.stderr:
            if wanted in line:
                return line
        raise AssertionError(f"it ended without saying {wanted!r}")

    def _marked(self, process: Path) -> str:
        try:
            if self.mark.encode() in (process / "environ").read_bytes():
                return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""
        return ""

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


def until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    """Wait for ``condition``, and fail where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def load_command(tmp_path: Path) -> Iterator[LoadCommand]:
    """`taskservice load`, in a folder of its own."""
    command = LoadCommand(tmp_path)
    yield command
    command.end()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis that is there."""
    with Children() as children:
        yield start_redis(children)[0]
