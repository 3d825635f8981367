"""Events of workflow runs as they come, by one Redis pub/sub connection for all that are watched.

Nothing is read from here but what is published. Who watches is told to read for itself whenever something
may have been missed: when the server confirms that it follows a run, and after each broken connection.
"""

# ruff: noqa: D102 - ChannelFollower documents what it is to the listening thread

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskservice.backends.listening import ListeningThread, follow_channels
from taskservice.errors import ServiceClosedError
from taskservice.workflow.store.base import EventWatcher, tell
from taskservice.workflow.store.codec import decode_event

if TYPE_CHECKING:
    from taskservice.workflow.model import WorkflowEvent

__all__ = ["EventFeed"]


class EventFeed:
    """Tells watchers what is published on their run's channel. The thread starts with the first."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # Changed by the thread alone, so that it needs no lock: others leave word in _asked.
        self._watchers: dict[bytes, dict[object, EventWatcher]] = {}
        self._asked: deque[tuple[bytes, object, EventWatcher | None]] = deque()
        self._touched: set[bytes] = set()
        self._thread = ListeningThread("taskservice-events", self._listen, failed=lambda _: None)

    def watch(self, channel: str, watcher: EventWatcher) -> Callable[[], None]:
        """Have ``watcher`` told, from the listening thread; what is returned takes that back.

        That locks nothing, so a finalizer may call it anywhere.
        """
        if self._thread.closed:
            raise ServiceClosedError("workflow store")

        name, mine = channel.encode(), object()
        self._asked.append((name, mine, watcher))
        self._thread.start()
        self._thread.wake()

        def leave() -> None:
            self._asked.append((name, mine, None))
            self._thread.wake()

        return leave

    def close(self) -> None:
        """End the thread and its connection; nobody is told anything any more."""
        self._thread.close()

    def _listen(self) -> None:
        follow_channels(self._thread, self._client, self)

    @property
    def wanted(self) -> Mapping[bytes, object]:
        return self._watchers

    def touched(self) -> Collection[bytes]:
        self._do_as_asked()
        touched, self._touched = self._touched, set()
        return touched

    def known(self, channels: Collection[bytes]) -> None:
        pass

    def followed(self, channels: Collection[bytes]) -> None:
        # Who asked before the server confirmed may have missed something as well.
        self._do_as_asked()
        for channel in channels:
            self._tell(channel, ())

    def take(self, payloads: Sequence[tuple[bytes, bytes]]) -> None:
        # Who asked before these were published must get them.
        self._do_as_asked()
        lots: dict[bytes, list[WorkflowEvent]] = {}
        for channel, payload in payloads:
            if channel not in self._watchers:
                continue
            lot = lots.setdefault(channel, [])
            try:
                lot += _read(payload)
            except _AnnouncedError:
                # Whatever stands in the lot, the hole after it would be told anyway.
                self._tell(channel, lots.pop(channel))
                self._tell(channel, ())
        for channel, lot in lots.items():
            self._tell(channel, lot)

    def _do_as_asked(self) -> None:
        while self._asked:
            channel, key, watcher = self._asked.popleft()
            self._touched.add(channel)
            if watcher is not None:
                self._watchers.setdefault(channel, {})[key] = watcher
                continue
            watchers = self._watchers.get(channel, {})
            watchers.pop(key, None)
            if not watchers:
                self._watchers.pop(channel, None)

    def _tell(self, channel: bytes, events: Sequence[WorkflowEvent]) -> None:
        for watcher in tuple(self._watchers.get(channel, {}).values()):
            tell(watcher, events)


class _AnnouncedError(Exception):
    """A message says only that there are events."""


def _read(payload: bytes | str) -> list[WorkflowEvent]:
    text = payload if isinstance(payload, str) else payload.decode()
    events = []
    for line in text.split("\n"):
        number, bracket, rest = line.partition("[")
        if not bracket:
            raise _AnnouncedError
        events.append(decode_event(int(number), bracket + rest))
    return events
