"""A Redis of our own for the tests that need one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.redis.process import embedded_binary
from taskservice import Settings, read_heartbeats
from tests.taskservice.worker_groups import StartWorker, WorkerGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_SECONDS = 10
WORKER_SECONDS = 30


class RedisProcess:
    """A server that can be stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        binary = shutil.which("redis-server") or str(embedded_binary())
        argv = [binary, "--port", str(self.port), "--save", "", "--bind", "127.0.0.1", *options]
        self._process = subprocess.Popen([*argv, "--dir", str(self._folder)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=START_SECONDS)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


class WorkerProcess:
    """A real `taskservice worker`; ``tasks`` is the source of the module it imports."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self.settings = settings
        self.log = folder / "worker.log"

    @contextmanager
    def running(self, *argv: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Have it run with these arguments, from its first heartbeat on."""
        command = [sys.executable, "-c", "from taskservice.cli import main; main()", "worker", *argv]
        given = self.settings.model_dump(mode="json", exclude_unset=True)
        variables = {f"TASKSERVICE_{name.upper()}": _variable(value) for name, value in given.items()}
        path = {"PYTHONPATH": os.pathsep.join([str(self._folder), *sys.path])}
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **path, **variables, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until(lambda: process.poll() is not None or self.beats(), f"a heartbeat, see {self.log}")
            assert process.poll() is None, self.log.read_text()
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=WORKER_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                raise

    def beats(self) -> bool:
        return bool(read_heartbeats(self.settings.redis_url, self.settings.key_prefix))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for ``condition``, and fail where it does not come."""
    deadline = time.monotonic() + WORKER_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {WORKER_SECONDS} s"
        time.sleep(0.02)


def _variable(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


@pytest.fixture
def make_worker(redis_process: RedisProcess, tmp_path: Path) -> Callable[..., WorkerProcess]:
    """Return what makes a worker of a module's source and of settings."""

    def make(tasks: str, **settings: object) -> WorkerProcess:
        (tmp_path / "worker_tasks.py").write_text(tasks)
        given = {"redis_url": redis_process.url, "imports": ("worker_tasks",), **settings}
        return WorkerProcess(tmp_path, Settings.model_validate(given))

    return make


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """A function that starts a worker; what still runs afterwards is killed."""
    started: list[WorkerGroup] = []

    def start(url: str, *, pool: str = "prefork", slots: int = 2, **settings: str) -> WorkerGroup:
        given = {"redis_url": url, "imports": "tests.taskservice.worker_tasks", **settings}
        environment = {f"TASKSERVICE_{name.upper()}": value for name, value in given.items()}
        started.append(WorkerGroup(tmp_path, pool, slots, environment))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[RedisProcess]:
    """A fresh Redis for this test alone, running."""
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
