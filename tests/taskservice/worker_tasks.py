"""Tasks of workers that are stopped and killed; the worker imports this module too."""

from __future__ import annotations

import time
from pathlib import Path

from taskservice import task


@task
def write_down(diary: str, number: int) -> int:
    with Path(diary).open("a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return number


@task
def wait_for(diary: str, gate: str) -> str:
    """Return when the file ``gate`` is there; each start and end is a line in ``diary``."""
    write_down(diary, 1)
    deadline = time.monotonic() + 20
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(gate)
        time.sleep(0.005)
    return "opened"


@task(acks_late=False)
def wait_for_once(diary: str, gate: str) -> str:
    return wait_for(diary, gate)
