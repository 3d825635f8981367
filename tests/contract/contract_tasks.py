"""Tasks of the back ends' contract suite; the worker imports this module too."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.lowlevel

from taskservice import RetryPolicy, SoftTimeLimitError, task

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
def note(diary: str, text: str) -> int:
    with Path(diary).open("a", encoding="utf-8") as file:
        file.write(text)
    return 1


@task(idempotency_key=lambda order, diary: f"refund {order}" if order else None)
def refund(order: str, diary: str) -> str:
    note(diary, "r")
    return "refunded"


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
def repeat(text: str, times: int) -> str:
    return text * times


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


@task(retry=QUICK)
async def linger(diary: str) -> None:
    """Stay until cancelled, and tidy up with an await."""
    path = anyio.Path(diary)
    await path.write_text("began", encoding="utf-8")
    try:
        await anyio.sleep(20)
    finally:
        with anyio.CancelScope(shield=True):
            await path.write_text("left", encoding="utf-8")


@task
def keywords(**given: object) -> object:
    return given


@task(expires=0.2)
def short_lived(diary: str) -> None:
    Path(diary).touch()


@task(soft_time_limit=0.1, time_limit=30)
async def tidy(diary: str) -> str:
    """Clean up at the soft limit, which takes an await of its own."""
    try:
        await anyio.sleep_forever()
    except SoftTimeLimitError as error:
        await anyio.lowlevel.checkpoint()
        await anyio.Path(diary).write_text(f"{error.seconds}", encoding="utf-8")
    return "tidied"


@task(soft_time_limit=0.1, retry=RetryPolicy(max_attempts=2, base=timedelta(milliseconds=20)))
async def careless() -> None:
    await anyio.sleep_forever()


@task(time_limit=0.2, retry=QUICK)
async def endless() -> None:
    await anyio.sleep_forever()


@task(time_limit=30, soft_time_limit=20)
async def leisurely() -> str:
    await anyio.lowlevel.checkpoint()
    return "in time"


@task(time_limit=0.3, retry=QUICK)
def stuck(gate: str) -> str:
    return wait_for(gate)


@task(time_limit=30)
def brisk() -> str:
    return "in time"


@task(soft_time_limit=0.2, time_limit=30)
def tidy_plain(gate: str) -> str:
    try:
        return wait_for(gate)
    except SoftTimeLimitError as error:
        return f"tidied after {error.seconds} s"


@task
def halve(number: int) -> int:
    """Odd numbers fail, each with its own error."""
    if number % 2:
        raise DeclinedError(number, "odd")
    return number // 2


@task
def fail_until(gate: str, value: object) -> object:
    """Fail as long as the file ``gate`` is missing."""
    if not Path(gate).exists():
        raise DeclinedError(1, "closed")
    return value


@task(retry=RetryPolicy(max_attempts=3, base=timedelta(milliseconds=20), retry_for=(KeyError,)))
def refuse(order: int) -> None:
    raise DeclinedError(order, "never")


@task
def total(values: list[int]) -> int:
    return sum(values)


@task
async def collect(values: list[object], *more: object) -> list[object]:
    return [*values, *more]


@task
def mark(diary: str) -> str:
    """Leave a trace of having run."""
    Path(diary).touch()
    return "marked"


@task
def mark_after(value: object, diary: str) -> object:
    """The same, behind the value of what came before."""
    Path(diary).touch()
    return value


@task
def hold(value: object, gate: str) -> object:
    """Hand on the value once the file ``gate`` is there."""
    wait_for(gate)
    return value


@task(retry=QUICK)
def flaky_after(value: int, diary: str, failures: int) -> int:
    """As `flaky`, and hand on the value."""
    flaky(diary, failures)
    return value
