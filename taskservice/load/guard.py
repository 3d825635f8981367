"""Child processes that never outlive us, ``kill -9`` included.

A helper sits at the other end of a pipe, is told of every process group and folder, and when the pipe ends
kills and deletes what is left. This file is also the helper's program: it imports the standard library
alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

__all__ = ["Children"]

STOP_SECONDS: Final = 5.0
LOG_LINES: Final = 6


class Children:
    """Starts programs, each in a session and with a log of its own, and ends them, last first."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Self:
        # Nobody's terminal: its Ctrl-C is for us, who end things in their order.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self.folder = Path(tempfile.mkdtemp(prefix="taskservice-load-"))
        self._tell(f"path {self.folder}")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            self._end(process)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(STOP_SECONDS)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Run a program; what it says is in its log."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        self._tell(f"group {process.pid}")
        self._running.append(process)
        self._logs[process.pid] = log
        return process

    def last_words(self, process: subprocess.Popen[bytes]) -> str:
        """Return the end of its log."""
        lines = self._logs[process.pid].read_text("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-LOG_LINES:]) or "(it said nothing)"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        # What is left of it: children of its own included.
        _kill(process.pid)
        process.wait()
        self._tell(f"ended {process.pid}")

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.write(line.encode() + b"\n")


def _kill(group: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def _watch() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[str, None] = {}
    paths: list[str] = []
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "group":
            groups[rest] = None
        elif word == "ended":
            groups.pop(rest, None)
        else:
            paths.append(rest)
    for group in reversed(groups):
        _kill(int(group))
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    _watch()
