"""Acknowledging messages of a Redis broker without waiting for the answer.

kombu makes a client, a transaction and a round trip of each acknowledgement, which is a third of what a
worker's main process does. Here it leaves at once on a connection of its own, and its answer is read before
the next one is sent, or a second later. What a lost connection leaves unanswered is sent again.

Leaned on, of kombu/transport/redis.py: ``QoS.ack``, replaced on the one channel that a worker takes tasks
from, ``Channel.pool``, ``unacked_key`` and ``unacked_index_key``; and of redis/connection.py
``Connection.pack_commands``, ``send_packed_command``, ``can_read`` and ``read_response``. `begin` tells what
is gone.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from kombu.transport import virtual
from redis import Redis
from redis.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Acknowledger"]

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 1.0
"""How long an answer may lie unread: until it is read, nobody knows that the connection is gone."""
_SEAMS: Final = ("ack_emulation", "global_keyprefix", "pool", "unacked_index_key", "unacked_key")
_CONNECTION_SEAMS: Final = ("can_read", "pack_commands", "read_response", "send_packed_command")


class Acknowledger:
    """Forgets what one worker was delivered; used by the thread of its event loop."""

    def __init__(self) -> None:
        self._channel: Any = None
        self._hub: Any = None
        self._thread = 0
        self._client: Any = None
        self._unanswered: list[str] = []
        self._answer_is_due = False

    def begin(self, channel: Any, hub: Any, taken_along: Callable[[str], bool]) -> None:
        """Serve a new channel; ``taken_along(tag)`` says that somebody else sends this one, and at once.

        What the channel before left unanswered is sent first.
        """
        missing = [name for name in _SEAMS if not hasattr(type(channel), name)]
        missing += [name for name in _CONNECTION_SEAMS if name not in vars(AbstractConnection)]
        if missing:
            raise ConfigurationError(f"{missing[0]} is gone; taskservice.worker.acknowledging must follow")

        self._channel, self._hub = channel, hub
        self._answer_is_due = False
        self._thread = threading.get_ident()
        self._taken_along = taken_along
        self._plainly = channel.qos.ack
        channel.qos.ack = self._ack
        if self._unanswered:
            self.send()

    def end(self, unanswered: Iterable[str]) -> None:
        """Leave what comes now to kombu, which waits for each answer; ``unanswered`` are somebody else's."""
        if self._channel is None:
            return

        channel, self._channel = self._channel, None
        channel.qos.ack = self._plainly
        with suppress(RedisError, OSError):
            waiting = self._client is not None and self._unanswered
            if waiting and self._client.connection.can_read(timeout=ANSWER_SECONDS):
                self._read()
        self._give_up()
        self._unanswered += unanswered

    def send(self, *tags: str) -> None:
        """Forget deliveries in Redis; where it cannot be told raise what redis-py does, and tell it later."""
        try:
            self._read()
            self._unanswered += tags
            self._write()
        except RedisError:
            # The connection may have been idle for too long.
            self._give_up()
            self._unanswered = [*dict.fromkeys([*self._unanswered, *tags])]
            self._write()
        if not self._answer_is_due:
            self._answer_is_due = True
            self._hub.call_later(ANSWER_SECONDS, self._look)

    def _ack(self, delivery_tag: str) -> None:
        if threading.get_ident() != self._thread:
            self._plainly(delivery_tag)
        elif not self._taken_along(delivery_tag):
            self.send(delivery_tag)
            virtual.QoS.ack(self._channel.qos, delivery_tag)

    def _look(self) -> None:
        self._answer_is_due = False
        if self._channel is None or not self._unanswered:
            return
        try:
            self._read()
        except RedisError:
            self._give_up()
            self.send()

    def _write(self) -> None:
        channel, tags = self._channel, self._unanswered
        if self._client is None:
            # Its connection belongs to the channel's pool, and is closed with it.
            self._client = Redis(connection_pool=channel.pool, single_connection_client=True)
        prefix = channel.global_keyprefix
        # In this order: an index without its message is cleared when somebody looks for the message.
        commands = [
            ("HDEL", f"{prefix}{channel.unacked_key}", *tags),
            ("ZREM", f"{prefix}{channel.unacked_index_key}", *tags),
        ]
        connection = self._client.connection
        connection.send_packed_command(connection.pack_commands(commands))

    def _read(self) -> None:
        if self._client is None or not self._unanswered:
            return
        for _ in range(2):
            try:
                self._client.connection.read_response()
            except ResponseError as error:
                logger.error("Redis did not forget %s, which will come again: %s", self._unanswered, error)
        self._unanswered = []

    def _give_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(RedisError, OSError):
                client.connection.disconnect()
