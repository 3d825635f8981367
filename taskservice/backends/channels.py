"""Channels of one Redis pub/sub connection: Celery's published results, and events of workflow runs.

One place of redis-py is leaned on, with a self-check: ``Connection._sock``, the socket to select on
(redis/connection.py, ``AbstractConnection``), in ``readable_socket``. Messages are read off the connection,
as many as are there; whatever else it says, and its loss, is for redis-py's ``PubSub``.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["ChannelNews", "PubSubChannels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelNews:
    """What came in: channels that the server now follows, and payloads by channel."""

    followed: list[bytes] = field(default_factory=list)
    payloads: list[tuple[bytes, bytes]] = field(default_factory=list)


class PubSubChannels:
    """A pub/sub connection that is never waited on; used by one thread."""

    def __init__(self, client: Any) -> None:
        self._pubsub = client.pubsub()
        self._channels: set[bytes] = set()

    def update(self, *, wanted: Collection[bytes], unwanted: Collection[bytes]) -> set[bytes]:
        """Follow and leave, one command each; return those of ``wanted`` followed before."""
        known = self._channels.intersection(wanted)
        new = set(wanted) - known
        old = self._channels.intersection(unwanted)
        if new:
            self._pubsub.subscribe(*new)
            self._channels |= new
        if old:
            self._pubsub.unsubscribe(*old)
            self._channels -= old
        return known

    def readable_socket(self) -> socket.socket | None:
        """Return the socket that tells of news, or ``None`` while nothing is followed."""
        connection = self._pubsub.connection
        if connection is None or not self._pubsub.subscribed:
            return None

        found = getattr(connection, "_sock", None)
        if found is None and connection.is_connected:
            raise ConfigurationError(
                "redis-py no longer has Connection._sock; taskservice.backends.channels must follow"
            )
        return found if isinstance(found, socket.socket) else None

    def drain(self) -> ChannelNews:
        """Return everything that has arrived; never waits."""
        news = ChannelNews()
        # A message may sit in the parser's buffer, where select() does not see it: read to the end.
        while self._pubsub.subscribed:
            message = self._pubsub.get_message(timeout=0)
            if message is None:
                break
            self._note(message, news)
            self._drain_messages(news)
        return news

    def _drain_messages(self, news: ChannelNews) -> None:
        connection = self._pubsub.connection
        payloads = news.payloads
        try:
            while connection is not None and connection.can_read(timeout=0):
                answer = connection.read_response(disconnect_on_error=False, push_request=True)
                if type(answer) is list and answer[0] == b"message":
                    payloads.append((answer[1], answer[2]))
                else:
                    self._note(self._pubsub.handle_message(answer), news)
        except RedisError:
            # It comes again when redis-py reads, which connects and subscribes anew.
            return

    def _note(self, message: Any, news: ChannelNews) -> None:
        if message is None:
            return

        channel = _as_bytes(message["channel"])
        if message["type"] == "subscribe":
            news.followed.append(channel)
        elif message["type"] == "message":
            news.payloads.append((channel, message["data"]))

    def close(self) -> None:
        """Give the connection back."""
        self._pubsub.close()


def _as_bytes(channel: str | bytes) -> bytes:
    return channel.encode() if isinstance(channel, str) else channel
