"""Groups of tasks: what runs in process runs in one, and whoever opened it waits for all of them.

AnyIO's own task group is one, and the one on trio. On asyncio it costs more than a short run itself, and
much of it is for tasks that fail, which runs do not: they keep their errors.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from taskservice.backends.loops import on_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from anyio.abc import TaskGroup

__all__ = ["RunGroup", "open_group"]


class RunGroup(Protocol):
    """Tasks that end on their own or are cancelled one by one, and never raise."""

    def start(self, run: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Run it beside the caller; what is returned cancels it."""

    async def join(self) -> None:
        """Wait for all of them, whoever wants to be gone meanwhile."""


async def open_group() -> RunGroup:
    """Return a group for the running event loop, to be joined in the same task."""
    if on_trio():
        return _AnyIOGroup(await anyio.create_task_group().__aenter__())

    return _AsyncioGroup(asyncio.get_running_loop())


class _AnyIOGroup:
    def __init__(self, group: TaskGroup) -> None:
        self._group = group

    def start(self, run: Coroutine[Any, Any, None]) -> Callable[[], None]:
        return self._group.create_task(run).cancel

    async def join(self) -> None:
        await self._group.__aexit__(None, None, None)


class _AsyncioGroup:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, run: Coroutine[Any, Any, None]) -> Callable[[], None]:
        scope = anyio.CancelScope()
        task = self._loop.create_task(_within(scope, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return scope.cancel

    async def join(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while self._tasks:
                try:
                    await asyncio.wait(self._tasks)
                except asyncio.CancelledError as error:  # by Task.cancel(), which no shield holds off
                    cancelled = error
        if cancelled is not None:
            raise cancelled


async def _within(scope: anyio.CancelScope, run: Coroutine[Any, Any, None]) -> None:
    with scope:
        await run
