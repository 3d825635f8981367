"""A worker process seen from the test process: start it, talk to its agent, end it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import HarnessTimeoutError, WorkerStartError

if TYPE_CHECKING:
    from pytest_taskservice.drivers.worker_spec import WorkerSpec
    from taskservice.reaper import Reaper

__all__ = ["WorkerProcess"]

_LOG_TAIL = 25
_ASK_TIMEOUT = 5.0
_EXIT = 2.0
_LOOK = 0.05


class WorkerProcess:
    """One worker process, from before it knows its app until it is gone.

    The process starts at once and imports Celery; ``start`` tells it what to serve. It leads its own process
    group, so that one signal reaches its pool too.
    """

    def __init__(self, reaper: Reaper, *, story: bool = False) -> None:
        self.directory, release = reaper.folder("taskservice-worker-")
        self._released = [release]
        self._log = (self.directory / "worker.log").open("wb")
        self._agent, theirs = socket.socketpair()
        self.agent = theirs.fileno()
        # One datagram an echo: every process of a pool may write to it.
        self.echoes, echo = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.echo = echo.fileno()
        # It ends by itself if we die before it is told what to serve, and so before it is watched.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest_taskservice.drivers.worker_main", *(["story"] if story else [])],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(_import_path())},
            pass_fds=[self.agent, self.echo],
            start_new_session=True,
        )
        theirs.close()
        echo.close()
        self._released.append(reaper.watch_group(self._process.pid))
        self._stream: Any = None
        self._asking = threading.Lock()
        self.ready = False
        """Whether it has begun to consume."""
        self.tasks: frozenset[str] = frozenset()
        self.queues: set[str] = set()
        self.stopped = False
        """Whether it stands still: whoever has asked it something waits until it goes on."""
        self.pid = self._process.pid

    def start(self, spec: WorkerSpec, *, timeout: float) -> None:
        """Make the process serve ``spec`` and return once it consumes, within ``timeout`` seconds."""
        self.tell(spec)
        self.await_ready(timeout)

    def tell(self, spec: WorkerSpec) -> None:
        """Say what to serve; :meth:`await_ready` is to follow."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(spec.to_json().encode() + b"\n")
            stdin.close()
        except OSError:
            self._fail("the worker died before it was told its app")

    def await_ready(self, timeout: float) -> None:
        """Return once it consumes, within ``timeout`` seconds of now."""
        self._await_agent(time.monotonic() + timeout, timeout)
        self._stream = self._agent.makefile("rwb")
        hello = self._read()
        self.tasks = frozenset(hello["tasks"])
        self.queues = set(hello["queues"])
        self.ready = True

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    @contextmanager
    def unasked(self) -> Iterator[None]:
        """Meanwhile, nobody waits for an answer of it."""
        with self._asking:
            yield

    def await_end(self) -> int:
        """Wait until the process has ended, however long, and return its exit code."""
        return self._process.wait()

    def ask(self, do: str, *, within: float = 0.0, **request: Any) -> Mapping[str, Any]:
        """Put one question to the agent and return its answer, which may take ``within`` seconds to find."""
        with self._asking:
            self._agent.settimeout(within + _ASK_TIMEOUT)
            try:
                self._stream.write(json.dumps({"do": do, **request}).encode() + b"\n")
                self._stream.flush()
            except (OSError, ValueError):
                self._fail(f"the worker was gone when asked for {do!r}")
            self._await_answer(within + _ASK_TIMEOUT)
            answer = self._read()
        if "error" in answer:
            raise WorkerStartError(f"the worker could not {do}: {answer['error']}")
        return answer

    def log_size(self) -> int:
        """Return the length of the log so far, in bytes."""
        return os.fstat(self._log.fileno()).st_size

    def log_text(self, start: int = 0) -> str:
        """Return the log from byte ``start`` on."""
        try:
            with (self.directory / "worker.log").open("rb") as log:
                log.seek(start)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """End the process by force, and leave no file.

        A warm shutdown takes Celery two seconds, and there is nothing left to finish.
        """
        if not self._log.closed:
            _kill_group(self._process.pid)
            self._process.wait()
            if self._process.stdin:
                # Told nothing yet: what is in the buffer has nowhere to go.
                with suppress(OSError):
                    self._process.stdin.close()
            if self._stream is not None:
                with suppress(OSError):
                    self._stream.close()
            self._agent.close()
            with suppress(OSError):
                # Wakes whoever reads it in another thread.
                self.echoes.shutdown(socket.SHUT_RDWR)
            self.echoes.close()
            self._log.close()
            shutil.rmtree(self.directory, ignore_errors=True)
        while self._released:
            self._released.pop()()

    def _await_agent(self, deadline: float, timeout: float) -> None:
        while True:
            # Short, because its pool may outlive a process that dies, and hold the socket open.
            readable, _, _ = select.select([self._agent], [], [], 0.02)
            if readable and self._speaks():
                return
            if readable or not self.alive:
                self._wait(_EXIT)
                self._fail(f"the worker died at start, exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                self._fail(f"the worker did not come up within {timeout:g} s")

    def _speaks(self) -> bool:
        """Tell a greeting from the end: a process that dies closes its socket a little before it is gone."""
        try:
            return bool(self._agent.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _await_answer(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not select.select([self._agent], [], [], _LOOK)[0] and time.monotonic() < deadline:
            if self.stopped:
                deadline = time.monotonic() + patience

    def _read(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except TimeoutError:
            raise HarnessTimeoutError(
                f"the worker's agent did not answer within {self._agent.gettimeout():g} s; {self._tail()}"
            ) from None
        except (OSError, ValueError):
            # The latter where another thread has closed it.
            line = b""
        if not line:
            self._fail("the worker died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _fail(self, what: str) -> Any:
        raise WorkerStartError(f"{what}; {self._tail()}")

    def _tail(self) -> str:
        lines = self.log_text().splitlines()[-_LOG_TAIL:]
        return "last lines of its log:\n" + "\n".join(f"  {line}" for line in lines)


def _import_path() -> list[str]:
    """Return the parent's import path, so that the process finds this package wherever it lies."""
    return [entry or str(Path.cwd()) for entry in sys.path]


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
