"""Time limits of one attempt, the same on every back end: soft ones raise, hard ones give up.

An ``async`` function is limited in its own event loop. A plain one runs in a thread, which nothing
can stop: it is left to itself at the hard limit, and no soft limit reaches it. Two places are
leaned on to raise an error inside a function that awaits something, each with a self-check:

- asyncio: ``Task.cancel`` wakes the task by throwing, so that whoever stands between the task and
  its coroutine decides what the coroutine gets; it is a `CancelledError` still, or a task group
  that waits for its children would leave without them.
- trio: ``Task._attempt_abort`` and ``Task._abort_func`` (trio/_core/_run.py), by which trio itself
  delivers ``KeyboardInterrupt``. It needs a task that waits: one that only ever passes checkpoints
  is reached by the hard limit alone.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import copy_context
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio

from taskservice.errors import ConfigurationError, LaunchOptionError, SoftTimeLimitError, TimeLimitError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

__all__ = ["NO_LIMITS", "Limits", "call_and_abandon", "call_limited", "refuse_soft_limit"]

RETRY_SECONDS: Final = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Seconds from the start of an attempt."""

    soft: float | None = None
    hard: float | None = None


NO_LIMITS: Final = Limits()


async def call_limited(call: Callable[[], Awaitable[Any]], limits: Limits) -> Any:
    """Await ``call()`` within ``limits``; `TimeLimitError` if it had to be given up.

    It is given up at an await; one that shields itself is waited for.
    """
    if limits.hard is None:
        return await _call_softly(call, limits.soft)

    with anyio.move_on_after(limits.hard) as scope:
        return await _call_softly(call, limits.soft)
    assert scope.cancelled_caught
    raise TimeLimitError(limits.hard)


def call_and_abandon(call: Callable[[], Any], seconds: float) -> Any:
    """Call it in a thread that is left to itself after ``seconds``; then `TimeLimitError`."""
    values: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = Thread(target=copy_context().run, args=(run,), name="taskservice-limited", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if values:
        return values[0]

    raise TimeLimitError(seconds)


def refuse_soft_limit(task: str, where: str) -> NoReturn:
    """Raise the error for a soft limit that nobody could deliver."""
    raise LaunchOptionError(
        "soft_time_limit",
        f"{task!r} is a plain function, and nothing can be raised inside a thread of {where}: make it async, "
        "run it on a Celery worker with the prefork pool, or give it a time_limit alone",
    )


async def _call_softly(call: Callable[[], Awaitable[Any]], seconds: float | None) -> Any:
    if seconds is None:
        return await call()

    limited = _on_trio if _in_trio() else _on_asyncio
    return await limited(_as_coroutine(call), seconds)


async def _as_coroutine(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


class _SoftCancelledError(SoftTimeLimitError, asyncio.CancelledError):
    """What the function gets on asyncio: it cleans up as if cancelled, and is told why."""


class _Interrupted:
    """Stands between a task and its coroutine, and tells one cancellation from the others."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise ConfigurationError("a soft_time_limit on asyncio needs a task around the call")

        self._task = task
        self._coroutine = coroutine
        self._seconds = seconds
        self._requests = task.cancelling()
        self._due = False

    def interrupt(self) -> None:
        """Wake the task; what it awaits is cancelled."""
        self._due = True
        self._task.cancel()

    def give_up(self) -> None:
        """Take an interruption back that what the task awaited has swallowed."""
        if self._due:
            self._due = False
            self._task.uncancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            awaited = self._coroutine.send(None)
            while True:
                try:
                    value = yield awaited
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                    awaited = self._coroutine.throw(self._translate(error))
                else:
                    awaited = self._coroutine.send(value)
        except StopIteration as stop:
            return stop.value

    def _translate(self, error: BaseException) -> BaseException:
        if not self._due or not isinstance(error, asyncio.CancelledError):
            return error

        self._due = False
        # Somebody else wants the task gone as well: that goes first.
        others = self._task.uncancel() > self._requests
        return error if others else _SoftCancelledError(self._seconds)


async def _on_asyncio(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    interrupted = _Interrupted(coroutine, seconds)
    timer = asyncio.get_running_loop().call_later(seconds, interrupted.interrupt)
    try:
        return await interrupted
    except _SoftCancelledError as error:
        # Outside the function nobody may take it for a cancellation.
        raise SoftTimeLimitError(seconds).with_traceback(error.__traceback__) from error.__cause__
    finally:
        timer.cancel()
        interrupted.give_up()


async def _on_trio(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    import trio

    task: Any = trio.lowlevel.current_task()
    if not hasattr(task, "_attempt_abort") or not hasattr(task, "_abort_func"):
        coroutine.close()
        raise ConfigurationError(
            "trio's Task._attempt_abort is gone; taskservice.backends.limits must follow"
        )

    scope = trio.CancelScope()
    delivered = False

    def interrupt() -> NoReturn:
        nonlocal delivered
        delivered = True
        raise SoftTimeLimitError(seconds)

    async def interrupt_later() -> None:
        with scope:
            await trio.sleep(seconds)
            while not delivered:
                # A task about to run, or in a thread that cannot be left, is asked again.
                if task._abort_func is not None:  # noqa: SLF001 - see the module
                    task._attempt_abort(interrupt)  # noqa: SLF001 - see the module
                await trio.sleep(RETRY_SECONDS)

    trio.lowlevel.spawn_system_task(interrupt_later)
    try:
        return await coroutine
    finally:
        scope.cancel()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()
