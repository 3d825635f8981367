"""Following Redis channels: one thread and one pub/sub connection, however many channels.

`ListeningThread` runs whatever listens, again after each failure; `follow_channels` is what it runs on
Redis.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from redis.exceptions import RedisError

from taskservice.backends.channels import PubSubChannels

__all__ = ["ChannelFollower", "ListeningThread", "follow_channels"]

logger = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.05
LAST_DELAY: Final = 5.0
LEAVE_BATCH: Final = 100


class ListeningThread:
    """A daemon thread that calls ``serve`` until it is closed, and starts when first needed.

    A lost connection, which ``serve`` raises, has it called again after a while; any other error is
    told to ``failed`` first.
    """

    def __init__(self, name: str, serve: Callable[[], None], *, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._serve = serve
        self._failed = failed
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._delay = FIRST_DELAY
        self._waking = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    @property
    def closed(self) -> bool:
        """Whether ``serve`` should return."""
        return self._closed

    @property
    def wakes(self) -> socket.socket:
        """Readable once somebody called `wake`; to be emptied by `drain_wakes`."""
        return self._reader

    def start(self) -> None:
        """Have the thread running; not after `close`."""
        if self._thread is not None:
            return

        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Have ``serve`` look up; it locks nothing, so a finalizer may call it anywhere."""
        # One byte is enough until the thread has taken it: what a thousand waiters change, it sees at once.
        if self._waking:
            return

        self._waking = True
        # Closed means that the thread is gone.
        with suppress(OSError):
            self._writer.send(b"\0")

    def drain_wakes(self) -> None:
        """Forget who called `wake` until now."""
        # Even if nobody seems to be waking: who is may not have sent the byte yet when the last were read.
        with suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        # In this order, and before looking at what has changed: or a wake might be lost.
        self._waking = False

    def sleep(self, seconds: float) -> None:
        """Wait in the thread until somebody calls `wake`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            selector.select(seconds)
        if not self._closed:
            self.drain_wakes()

    def recovered(self) -> None:
        """Note that the connection is good: the next one lost is replaced soon."""
        self._delay = FIRST_DELAY

    def close(self) -> bool:
        """End the thread, waiting for a moment; False if that was done before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            thread = self._thread
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=LAST_DELAY)
        self._reader.close()
        self._writer.close()
        return True

    def _run(self) -> None:
        while not self._closed:
            try:
                self._serve()
            except (RedisError, OSError) as error:
                if self._closed:
                    return
                logger.warning("%s lost its connection: %s", self._name, error)
                self.sleep(self._delay)
                self._delay = min(self._delay * 2, LAST_DELAY)
            except Exception as error:
                logger.exception("%s failed", self._name)
                self._failed(error)
                self.sleep(self._delay)


class ChannelFollower(Protocol):
    """Who wants channels followed. Every method is called by the listening thread."""

    @property
    def wanted(self) -> Mapping[bytes, object]:
        """The channels to follow, as they are now."""

    def touched(self) -> Collection[bytes]:
        """Return the channels that may have become wanted, or unwanted, since the last call."""

    def known(self, channels: Collection[bytes]) -> None:
        """Hear which of the touched channels have been followed all the time."""

    def followed(self, channels: Collection[bytes]) -> None:
        """Hear which channels the server follows from now on: what came before was missed."""

    def take(self, payloads: Sequence[tuple[bytes, bytes]]) -> None:
        """Get what was published, with its channels."""


def follow_channels(
    thread: ListeningThread,
    client: Any,
    follower: ChannelFollower,
    *,
    pause: Callable[[], object] | None = None,
) -> None:
    """Serve one pub/sub connection until it breaks or ``thread`` is closed.

    ``pause`` is called when there is news, before it is taken.
    """
    channels = PubSubChannels(client)
    leaving = _Leaving()
    touched: Collection[bytes] = {*follower.touched(), *follower.wanted}
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(thread.wakes, selectors.EVENT_READ)
            while not thread.closed:
                wanted = {channel for channel in touched if channel in follower.wanted}
                unwanted = leaving.next(touched, wanted, idle=not follower.wanted)
                follower.known(channels.update(wanted=wanted, unwanted=unwanted))
                _await_news(selector, channels)
                if pause is not None:
                    pause()
                if not thread.closed:
                    thread.drain_wakes()
                    _take_news(channels, follower, thread)
                    touched = follower.touched()
    finally:
        channels.close()


class _Leaving:
    """Channels to leave. Nobody minds one followed a little longer, and leaving each costs a command."""

    def __init__(self) -> None:
        self._stale: set[bytes] = set()

    def next(self, touched: Collection[bytes], wanted: set[bytes], *, idle: bool) -> set[bytes]:
        self._stale.update(touched)
        self._stale -= wanted
        if not idle and len(self._stale) < LEAVE_BATCH:
            return set()

        unwanted, self._stale = self._stale, set()
        return unwanted


def _await_news(selector: selectors.BaseSelector, channels: PubSubChannels) -> None:
    watched = channels.readable_socket()
    if watched is not None:
        selector.register(watched, selectors.EVENT_READ)
    try:
        selector.select()
    finally:
        # Each time anew: redis-py reconnects by itself, with another socket.
        if watched is not None:
            selector.unregister(watched)


def _take_news(channels: PubSubChannels, follower: ChannelFollower, thread: ListeningThread) -> None:
    news = channels.drain()
    if news.payloads:
        follower.take(news.payloads)
    if news.followed:
        follower.followed(set(news.followed))
        thread.recovered()
