"""Who waits for which result, on which channel: bookkeeping that event loops and a listening thread share.

The runs of one packed message are waited for on one channel, any other run on its own.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskservice.backends.loops import LoopNotifier

__all__ = ["ResultTaker", "Waiter", "Waiters"]

logger = logging.getLogger(__name__)

ResultTaker = Callable[[Mapping[str, Any] | None, Exception | None], object]
"""Gets the stored result, or the error for which there will be none."""


class Waiter:
    """Somebody in an event loop who wants to know how one run ends, and the channel that will tell."""

    __slots__ = ("channel", "notify", "run_id", "take")

    def __init__(self, channel: bytes, run_id: str, notify: LoopNotifier, take: ResultTaker) -> None:
        self.channel = channel
        self.run_id = run_id
        self.notify = notify
        self.take = take


_Told = tuple[ResultTaker, Mapping[str, Any] | None, Exception | None]


class Waiters:
    """All who wait, by channel and run. What is delivered reaches them with the next `tell`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[bytes, dict[str, list[Waiter]]] = {}
        self._packs: dict[bytes, str] = {}
        self._unread: dict[bytes, list[str]] = {}
        self._changed: deque[bytes] = deque()
        self._told: dict[LoopNotifier, list[_Told]] = {}

    @property
    def wanted(self) -> Mapping[bytes, object]:
        """The channels on which somebody waits."""
        return self._channels

    def pack_of(self, channel: bytes) -> str | None:
        """Return the id of the packed message, if the channel is that of one."""
        return self._packs.get(channel)

    def add(self, waiter: Waiter, pack_id: str | None = None) -> None:
        """Have it told; ``pack_id`` if its channel is that of a pack."""
        with self._lock:
            self._add(waiter)
            if pack_id is not None:
                self._packs[waiter.channel] = pack_id
                self._unread.setdefault(waiter.channel, []).append(waiter.run_id)

    def remove(self, waiter: Waiter) -> bool:
        """Forget it, if it was not told already; return whether nobody is left on its channel."""
        with self._lock:
            runs = self._channels.get(waiter.channel, {})
            waiting = runs.get(waiter.run_id, [])
            if waiter not in waiting:
                return False
            waiting.remove(waiter)
            return not waiting and self._drop(waiter.channel, waiter.run_id)

    def touched(self) -> set[bytes]:
        """Return the channels that came or went since the last call, or have somebody new."""
        changed = set()
        while self._changed:
            changed.add(self._changed.popleft())
        return changed

    def unread(self, channel: bytes) -> Sequence[str]:
        """Return, once each, the runs that are new on a channel."""
        with self._lock:
            if channel not in self._packs:
                return list(self._channels.get(channel, ()))
            return self._unread.pop(channel, [])

    def runs(self, channel: bytes) -> Sequence[str]:
        """Return all runs that are waited for on a channel."""
        with self._lock:
            self._unread.pop(channel, None)
            return list(self._channels.get(channel, ()))

    def move(self, channel: bytes, run_id: str, own: bytes) -> None:
        """Have all who wait for a run on one channel wait on its ``own``."""
        with self._lock:
            for waiter in self._channels.get(channel, {}).get(run_id, []):
                waiter.channel = own
                self._add(waiter)
            self._drop(channel, run_id)

    def deliver(
        self,
        channel: bytes,
        run_ids: Collection[str],
        *,
        meta: Mapping[str, Any] | None = None,
        error: Exception | None = None,
    ) -> None:
        """Note the end of runs for all who wait for them on a channel."""
        with self._lock:
            runs = self._channels.get(channel, {})
            for run_id in run_ids:
                for waiter in runs.get(run_id, []):
                    self._told.setdefault(waiter.notify, []).append((waiter.take, meta, error))
                self._drop(channel, run_id)

    def tell(self) -> None:
        """Have all ends that were noted told, in one go for each event loop."""
        with self._lock:
            told, self._told = self._told, {}
        for notify, ends in told.items():
            notify(partial(_tell_all, ends))

    def _add(self, waiter: Waiter) -> None:
        runs = self._channels.get(waiter.channel)
        if runs is None:
            runs = self._channels[waiter.channel] = {}
        waiting = runs.get(waiter.run_id)
        if waiting is None:
            runs[waiter.run_id] = [waiter]
        else:
            waiting.append(waiter)
        self._changed.append(waiter.channel)

    def _drop(self, channel: bytes, run_id: str) -> bool:
        runs = self._channels.get(channel, {})
        if runs.pop(run_id, None) is None or runs:
            return False

        del self._channels[channel]
        self._packs.pop(channel, None)
        self._unread.pop(channel, None)
        self._changed.append(channel)
        return True


def _tell_all(ends: Sequence[_Told]) -> None:
    for take, meta, error in ends:
        try:
            take(meta, error)
        except Exception:
            # One of many in one turn of the loop: the others still have to hear.
            logger.exception("taking a result failed")
