"""Our own commands, each in a process group of its own, of which nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["running"]


@contextmanager
def running(
    *argv: str, log: Path, environment: Mapping[str, str], folders: tuple[Path, ...] = (), patience: float
) -> Iterator[subprocess.Popen[bytes]]:
    """``taskservice`` with these arguments, until it is told to stop, which it must do in time.

    It finds modules where this process does, and in ``folders`` before.
    """
    path = os.pathsep.join([*map(str, folders), *sys.path])
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from taskservice.cli import main; main()", *argv],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
        process.terminate()
        process.wait(timeout=patience)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=patience)
