"""Workers that are stopped and killed, each in a process group of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

StartWorker = Callable[..., "WorkerGroup"]

SECONDS = 20


class WorkerGroup:
    """``taskservice worker`` with the tasks of `worker_tasks`, unless the environment says otherwise."""

    def __init__(self, folder: Path, pool: str, slots: int, environment: dict[str, str]) -> None:
        argv = [sys.executable, "-c", "from taskservice.cli import main; main()", "worker"]
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*argv, "-P", pool, "-c", str(slots)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Return its exit code."""
        return self._process.wait(timeout=SECONDS)

    def kill(self) -> None:
        """Kill it with all its processes."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self.wait()
