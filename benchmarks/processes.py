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

__all__ = ["ROOT", "WAIT", "program", "running"]

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
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.update(environment)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for argv in commands:
            # In a session of its own, so that its children can be ended with it.
            made = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            started.append(made)
        _wait(started, ready)
        yield
    finally:
        _end(started)


def _wait(started: Sequence[subprocess.Popen[bytes]], ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not ready():
        for process in started:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{[process.args for process in started]!r} did not come up in {WAIT:g} s")
        time.sleep(0.05)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.terminate()
    deadline = time.monotonic() + _STOP
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
    for process in started:
        # What is left of it, children without a parent included.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=_STOP)
