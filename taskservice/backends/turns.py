"""Turns: runs that never wait share a task of the event loop, and one that waits has a task of its own.

A task, and a scope in which one run can be cancelled, cost more than a short run itself. So the task that
takes the turns makes the first step of each run, in the run's own context. A run that is over by then
needed no more. One that waits keeps the task and its scope to itself, and those behind it get theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

import anyio

from taskservice.backends.loops import on_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from taskservice.backends.groups import RunGroup

__all__ = ["Turn", "Turns"]

SHARE: Final = 100
"""How many runs have their turn before others get a turn of the event loop."""

ALONE: Final = 20
"""How many runs, after one that has waited, get tasks of their own without being tried."""


class Turn:
    """A call of a coroutine function that waits for its turn, or has it, in the context of its making."""

    __slots__ = ("_args", "_context", "_make", "_scope")

    def __init__(self, make: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._make = make
        self._args = args
        self._context = copy_context()
        self._scope: anyio.CancelScope | None = None

    def cancel(self) -> None:
        """Cancel it at its next await; before its turn nothing happens, and it should see by itself."""
        if self._scope is not None:
            self._scope.cancel()

    def begin(self, scope: anyio.CancelScope) -> _Rest | None:
        """Make the first step, within ``scope``; return what is to be awaited, ``None`` if that was all."""
        coroutine = self._make(*self._args)
        self._scope = scope
        try:
            awaited = self._context.run(coroutine.send, None)
        except StopIteration:
            self._scope = None
            return None
        return _Rest(self._context, coroutine, awaited)

    def start(self, group: RunGroup) -> None:
        """Run it as a task of its own."""
        group.start(self._run, context=self._context)

    async def _run(self) -> None:
        with anyio.CancelScope() as self._scope:
            await self._make(*self._args)


class Turns:
    """Gives turns in the tasks of ``group``, in the order in which they were asked for."""

    def __init__(self, group: RunGroup) -> None:
        self._group = group
        self._waiting: deque[Turn] = deque()
        self._given = False
        self._alone = 0

    def add(self, turn: Turn) -> None:
        """Have it begin soon."""
        if self._alone and not self._waiting:
            self._alone -= 1
            turn.start(self._group)
            return

        self._waiting.append(turn)
        self._give()

    def _give(self) -> None:
        if self._waiting and not self._given:
            self._given = True
            self._group.start(self._take)

    async def _take(self) -> None:
        with anyio.CancelScope() as scope:
            rest: _Rest | None = None
            try:
                rest = self._begin_some(scope)
            finally:
                # Whatever a run has raised: those behind it are not to blame.
                self._given = False
                if rest is None:
                    self._give()
                else:
                    self._spread()
            if rest is not None:
                await rest

    def _begin_some(self, scope: anyio.CancelScope) -> _Rest | None:
        task = None if on_trio() else asyncio.current_task()
        for _ in range(min(SHARE, len(self._waiting))):
            rest = self._waiting.popleft().begin(scope)
            if rest is not None:
                return rest
            # A run may have cancelled itself and ended all the same: that was not meant for the next one.
            if scope.cancel_called or (task is not None and task.cancelling()):
                break
        return None

    def _spread(self) -> None:
        self._alone = ALONE
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            turn.start(self._group)


class _Rest:
    """What is left of a coroutine after its first step; goes on in the same context."""

    __slots__ = ("_awaited", "_context", "_coroutine")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._context = context
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        run, coroutine, awaited = self._context.run, self._coroutine, self._awaited
        try:
            while True:
                try:
                    value = yield awaited
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                    awaited = run(coroutine.throw, error)
                else:
                    awaited = run(coroutine.send, value)
        except StopIteration:
            return
