"""Child processes that never outlive us, ``kill -9`` included."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from taskservice.reaper import Reaper, Release

__all__ = ["Children"]

STOP_SECONDS: Final = 5.0
LOG_LINES: Final = 6


class Children:
    """Starts programs, each in a session and with a log of its own, and ends them, last first."""

    def __init__(self) -> None:
        self._running: list[tuple[subprocess.Popen[bytes], Release]] = []
        self._logs: dict[int, Path] = {}
        self._reaper = Reaper()

    def __enter__(self) -> Self:
        self.folder, self._forget_folder = self._reaper.folder("taskservice-load-")
        return self

    def __exit__(self, *_: object) -> None:
        for process, forget in reversed(self._running):
            _end(process)
            forget()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._forget_folder()
        self._reaper.close()

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
            process, forget = self._reaper.start(
                argv,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
            )
        self._running.append((process, forget))
        self._logs[process.pid] = log
        return process

    def last_words(self, process: subprocess.Popen[bytes]) -> str:
        """Return the end of its log."""
        lines = self._logs[process.pid].read_text("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-LOG_LINES:]) or "(it said nothing)"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # What is left of it: children of its own included.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
