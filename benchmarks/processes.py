"""Processes that a benchmark needs beside it: started, waited for, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "WAIT", "ended", "program", "running", "started"]

ROOT: Final = Path(__file__).parent.parent
WAIT: Final = 60.0
_STOP: Final = 10.0


def program(name: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def running(
    commands: Sequence[Sequence[str]], ready: Callable[[], object], **environment: str
) -> Iterator[None]:
    """Run ``commands`` side by side, from when ``ready`` is true until the block is left."""
    processes = started(commands, **environment)
    try:
        _wait(processes, ready)
        yield
    finally:
        ended(processes)


def started(commands: Sequence[Sequence[str]], **environment: str) -> list[subprocess.Popen[bytes]]:
    """Start ``commands`` and return at once; `ended` ends what they became."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.update(environment)
    # Each in a session of its own, so that its children can be ended with it.
    return [
        subprocess.Popen(
            argv,
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for argv in commands
    ]


def _wait(processes: Sequence[subprocess.Popen[bytes]], ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not ready():
        for process in processes:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{[process.args for process in processes]!r} did not come up in {WAIT:g} s")
        time.sleep(0.05)


def ended(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End them, with their children, whatever they do."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
    for process in processes:
        # What is left of it, children without a parent included.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=_STOP)
