"""Tasks of the back ends' contract suite; the worker imports this module too."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.lowlevel

from taskservice import RetryPolicy, task

QUICK = RetryPolicy(max_attempts=3, base=timedelta(milliseconds=20))


class DeclinedError(Exception):
    """A domain error with data, rebuilt from its arguments."""

    def __init__(self, order: int, reason: str) -> None:
        super().__init__(order, reason)
        self.order = order
        self.reason = reason

    def __str__(self) -> str:
        return f"order {self.order} declined: {self.reason}"


@task
def add(left: int, right: int) -> int:
    return left + right


@task
async def add_async(left: int, right: int) -> int:
    await anyio.lowlevel.checkpoint()
    return left + right


@task
def echo(value: object) -> object:
    return value


@task
def decline(order: int) -> None:
    raise DeclinedError(order, "no funds")


@task(retry=QUICK)
def flaky(diary: str, failures: int) -> int:
    """Fail ``failures`` times, counted in a file because attempts may meet other processes."""
    path = Path(diary)
    with path.open("a", encoding="utf-8") as file:
        file.write("x")
    tries = len(path.read_text(encoding="utf-8"))
    if tries <= failures:
        raise DeclinedError(tries, "try again")
    return tries


@task
def unserialisable() -> object:
    return object()


@task
def wait_for(gate: str) -> str:
    """Return when the file ``gate`` is there."""
    deadline = time.monotonic() + 20
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(gate)
        time.sleep(0.005)
    return "opened"


@task
def halve(number: int) -> int:
    """Odd numbers fail, each with its own error."""
    if number % 2:
        raise DeclinedError(number, "odd")
    return number // 2
