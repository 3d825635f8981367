"""Completion: handles in the order in which their runs end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol, Self, TypeVar
from weakref import ref

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskservice.runs import RunWatcher

__all__ = ["Completions", "Watchable"]


class Watchable(Protocol):
    """What can be watched to its end; see `TaskHandle.watch`."""

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        """See `TaskHandle.watch`."""


H = TypeVar("H", bound=Watchable)

SHARE: Final = 20
"""How many handles that are there come before others get a turn of the event loop."""


class Completions(Generic[H]):
    """An async iterator over ``handles``: each comes once, when its run is over, however it ended.

    Watching begins with the first step and costs neither a thread nor a task. Whoever stops early
    need not say so; `close` takes the watchers back at once.
    """

    def __init__(self, handles: Iterable[H]) -> None:
        self._leave: list[Callable[[], None]] | None = None
        self._handles = tuple(handles)
        self._left = len(self._handles)
        self._ended: deque[tuple[H, Exception | None]] = deque()
        self._news: anyio.Event | None = None
        self._at_once = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> H:
        found = await self.next()
        if found is None:
            raise StopAsyncIteration

        return found

    async def next(self) -> H | None:
        """Return the next handle, or ``None`` after the last.

        The back end's error, `ServiceClosedError` for one, if an end will never be known.
        """
        await self._checkpoint()
        if self._left == 0:
            return None

        self._watch_all()
        while not self._ended:
            self._news = anyio.Event()
            await self._news.wait()
        handle, error = self._ended.popleft()
        self._left -= 1
        if self._left == 0:
            self._leave = []
        if error is not None:
            self.close()
            raise error
        return handle

    async def _checkpoint(self) -> None:
        # A turn of the event loop costs more than what is done for one handle.
        if not self._ended or self._at_once == 0:
            self._at_once = SHARE
            await anyio.lowlevel.checkpoint()
        else:
            self._at_once -= 1
            await anyio.lowlevel.checkpoint_if_cancelled()

    def close(self) -> None:
        """Stop watching; nothing more comes."""
        self._left = 0
        leave, self._leave = self._leave or [], []
        for step_back in leave:
            step_back()

    def __del__(self) -> None:
        self.close()

    def _watch_all(self) -> None:
        if self._leave is not None:
            return

        self._leave = []
        own = ref(self)
        for handle in self._handles:
            self._leave.append(handle.watch(_Watcher(own, handle)))

    def take(self, handle: H, error: Exception | None) -> None:
        """Note that the run of ``handle`` is over, or that nobody will ever know."""
        self._ended.append((handle, error))
        if self._news is not None:
            self._news.set()


class _Watcher(Generic[H]):
    """Tells completions of a handle, if they are still there; less to be collected than a closure is."""

    __slots__ = ("_completions", "_handle")

    # Weak, so that an iterator that was left early goes, and its watchers with it.
    def __init__(self, completions: ref[Completions[H]], handle: H) -> None:
        self._completions = completions
        self._handle = handle

    def __call__(self, error: Exception | None) -> None:
        found = self._completions()
        if found is not None:
            found.take(self._handle, error)
