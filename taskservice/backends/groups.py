"""Groups of tasks: what runs in process runs in one, and whoever opened it waits for all of them.

On trio it is a nursery. AnyIO's own task group makes a handle and a scope for each task, which costs more
than a short run itself, and much of it is for tasks that fail, which runs do not: they keep their errors.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio

from taskservice.backends.loops import on_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

__all__ = ["RunGroup", "open_group"]


class RunGroup(Protocol):
    """Tasks that end on their own, and never raise."""

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], *, context: Context | None = None) -> None:
        """Run it beside the caller, in ``context``, without one in a copy of the caller's."""

    async def join(self) -> None:
        """Wait for all of them, whoever wants to be gone meanwhile."""


async def open_group() -> RunGroup:
    """Return a group for the running event loop, to be joined in the same task."""
    if on_trio():
        return await _TrioGroup.open()

    return _AsyncioGroup(asyncio.get_running_loop())


class _TrioGroup:
    def __init__(self, manager: Any, nursery: Any) -> None:
        self._manager = manager
        self._nursery = nursery

    @classmethod
    async def open(cls) -> Self:
        import trio

        manager = trio.open_nursery()
        return cls(manager, await manager.__aenter__())

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], *, context: Context | None = None) -> None:
        if context is None:
            self._nursery.start_soon(run)
        else:
            context.run(self._nursery.start_soon, run)

    async def join(self) -> None:
        await self._manager.__aexit__(None, None, None)


class _AsyncioGroup:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], *, context: Context | None = None) -> None:
        task = self._loop.create_task(run(), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
