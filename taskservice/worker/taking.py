"""Taking messages from a Redis broker so that a worker's death loses none.

kombu takes a message off its list (BRPOP), and only then notes it as unacknowledged. A worker that is
killed in between, or a Redis that is killed before it answers, loses it: of workers killed while they
drain a queue about one in four did. Here one script notes and takes at once; BRPOP is left for waiting
on queues that are all empty, where the message that ends the wait still comes kombu's way. The run that has
just ended, and made room for the next one, is acknowledged by the same script.

Leaned on, of kombu/transport/redis.py, with a check in `take_safely`, and replaced on the one channel
that a worker takes tasks from: ``Channel._brpop_start``, ``_brpop_read`` and ``handlers["BRPOP"]``, which
send and read; ``_in_poll``, ``_brpop_sent_at``, ``_queue_cycle``, ``_q_for_pri``, ``_flush_brpop_reauth``
and ``Transport._deliver``, which they share with the poller; ``MultiChannelPoller._client_registered``, which
tells whether that one listens; ``QoS.append``, which notes, and what `acknowledging` lists; ``_connparams``,
which fails in a way that nobody expects once the connection was given up. kombu looks after a connection
that went silent, by ``_brpop_sent_at`` and ``_flush_brpop_reauth``, from 5.7 on. Before that it also looks
for messages whose worker died in every tenth of its rounds only, whatever ``unacked_restore_throttle`` says:
``QoS.restore_visible``.
"""

from __future__ import annotations

import logging
from functools import partial
from hashlib import sha1
from queue import Empty
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from celery import bootsteps
from kombu.asynchronous import Hub
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as RedisConnectionError

from taskservice.backends.versions import KOMBU
from taskservice.errors import ConfigurationError
from taskservice.worker.acknowledging import Acknowledger

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["install_taking", "is_taking_installed", "take_safely"]

logger = logging.getLogger(__name__)

# Noted before it is taken: a Redis that is full refuses to note.
TAKE: Final = """
for at = 2, #ARGV do
    redis.call('HDEL', KEYS[2], ARGV[at])
    redis.call('ZREM', KEYS[1], ARGV[at])
end
for at = 3, #KEYS do
    local raw = redis.call('LINDEX', KEYS[at], -1)
    if raw then
        local read, message = pcall(cjson.decode, raw)
        local properties = read and type(message) == 'table' and message.properties
        local info = type(properties) == 'table' and properties.delivery_info
        local noted = 0
        if type(info) == 'table' and type(properties.delivery_tag) == 'string' then
            local tag = properties.delivery_tag
            redis.call('ZADD', KEYS[1], ARGV[1], tag)
            redis.call('HSET', KEYS[2], tag, '[' .. raw .. ',' .. cjson.encode(info.exchange) .. ','
                .. cjson.encode(info.routing_key) .. ']')
            noted = 1
        end
        redis.call('RPOP', KEYS[at])
        return {at - 3, raw, noted}
    end
end
return false
"""
TAKE_SHA: Final = sha1(TAKE.encode(), usedforsecurity=False).hexdigest()

_LOOKED_AFTER: Final = KOMBU >= (5, 7)
_SEAMS: Final = (
    *(("_brpop_sent_at", "_flush_brpop_reauth") if _LOOKED_AFTER else ()),
    "_brpop_read",
    "_brpop_start",
    "_connparams",
    "_in_poll",
    "_q_for_pri",
    "_queue_cycle",
)
_POLLER_SEAMS: Final = ("_client_registered",)


def install_taking(app: Celery) -> None:
    """Have workers of ``app`` take from Redis safely; a second call does nothing."""
    app.steps["consumer"].add(_TakeSafely)


def is_taking_installed(app: Celery) -> bool:
    """Return whether workers of ``app`` take from Redis safely."""
    return _TakeSafely in app.steps["consumer"]


class _TakeSafely(bootsteps.StartStopStep):
    """Started again after each reconnection, which brings a new channel."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._acknowledger = Acknowledger()
        self._taker: _Taker | None = None

    def start(self, parent: Any) -> None:
        self._taker = take_safely(parent.task_consumer.channel)
        # Without a loop of kombu's, other threads of control acknowledge while this one waits.
        if self._taker is not None and isinstance(parent.hub, Hub):
            self._taker.acknowledge_by(self._acknowledger, parent.hub)

    def stop(self, parent: Any) -> None:
        if self._taker is not None:
            self._acknowledger.end(self._taker.hand_over())


def take_safely(channel: Any) -> _Taker | None:
    """Have ``channel`` note and take in one step, if it is one of kombu's Redis channels."""
    on_redis = isinstance(channel, kombu_redis.Channel)
    if not on_redis or not channel.ack_emulation:
        return None

    missing = [name for name in _SEAMS if not hasattr(channel, name)]
    missing += [name for name in _POLLER_SEAMS if not hasattr(kombu_redis.MultiChannelPoller, name)]
    if missing or "BRPOP" not in channel.handlers:
        raise ConfigurationError(
            f"Channel.{missing or 'handlers'} is gone; taskservice.worker.taking must follow"
        )

    taker = _Taker(channel)
    channel._brpop_start = taker.start  # noqa: SLF001 - listed above
    channel._brpop_read = taker.read  # noqa: SLF001 - listed above
    channel.handlers["BRPOP"] = taker.read
    channel.qos.append = taker.note
    _lose_connection_plainly(channel)
    if not _LOOKED_AFTER:
        _restore_as_configured(channel)
    return taker


def _restore_as_configured(channel: Any) -> None:
    often = channel.connection.client.transport_options.get("unacked_restore_throttle")
    if often:
        channel.qos.restore_visible = partial(channel.qos.restore_visible, interval=often)


def _lose_connection_plainly(channel: Any) -> None:
    # A worker that loses its broker gives the connection up first and its deliveries back second. By then
    # kombu has forgotten where to: an AttributeError, of which it dies instead of connecting again.
    original = channel._connparams  # noqa: SLF001 - listed above

    def connparams(*args: Any, **kwargs: Any) -> Any:
        if channel.connection.client is None:
            raise RedisConnectionError("this connection was given up")
        return original(*args, **kwargs)

    channel._connparams = connparams  # noqa: SLF001 - listed above


class _Taker:
    """Takes while there is something, and otherwise waits as kombu does."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._wait = channel._brpop_start  # noqa: SLF001 - listed above
        self._note = channel.qos.append
        self._keys: list[str] = []
        self._taking = False
        self._all_empty = False
        self._noted = False
        self._refused = False
        self._by_name: bool | None = None
        self._acknowledger: Acknowledger | None = None
        self._forgetting: list[str] = []

    def acknowledge_by(self, acknowledger: Acknowledger, hub: Any) -> None:
        """Have acknowledgements go along with what is sent here, or by ``acknowledger``."""
        self._acknowledger = acknowledger
        acknowledger.begin(self._channel, hub, self._take_along)

    def hand_over(self) -> list[str]:
        """Return what was acknowledged and not answered: it may not be forgotten in Redis."""
        tags, self._forgetting = self._forgetting, []
        return tags

    def _take_along(self, delivery_tag: str) -> bool:
        channel = self._channel
        asked = channel._in_poll or self._all_empty or self._refused  # noqa: SLF001 - listed above
        if asked or not channel.active_queues:
            return False
        if not channel.connection.cycle._client_registered(channel, channel.client, "BRPOP"):  # noqa: SLF001 - listed above
            return False

        virtual.QoS.ack(channel.qos, delivery_tag)
        self._forgetting.append(delivery_tag)
        if channel.qos.can_consume():
            self.start()
        else:
            self._forget_alone()
        return True

    def start(self, timeout: float | None = None) -> None:
        """Ask for a message; kombu calls this when none has been asked for."""
        if self._all_empty or self._refused:
            self._forget_alone()
            self._taking = False
            if timeout is None:
                self._wait()
            else:
                self._wait(timeout)
            return

        channel = self._channel
        queues = channel._queue_cycle.consume(len(channel.active_queues))  # noqa: SLF001 - listed above
        if not queues:
            return

        self._keys = [
            channel._q_for_pri(queue, priority)  # noqa: SLF001 - listed above
            for priority in channel.priority_steps
            for queue in queues
        ]
        keys = [channel.unacked_index_key, channel.unacked_key, *self._keys]
        prefixed = [f"{channel.global_keyprefix}{key}" for key in keys]
        self._taking = True
        channel._in_poll = channel.client.connection  # noqa: SLF001 - listed above
        channel._brpop_sent_at = monotonic()  # noqa: SLF001 - listed above
        script = ("EVALSHA", TAKE_SHA) if self._by_name else ("EVAL", TAKE)
        channel.client.connection.send_command(*script, len(prefixed), *prefixed, time(), *self._forgetting)

    def read(self, **options: Any) -> bool:
        """Deliver what was asked for, or raise ``Empty``."""
        channel = self._channel
        try:
            found = self._taken(options) if self._taking else self._waited(options)
        finally:
            # Before the delivery, in which a solo pool runs the task: nothing is on its way any more.
            channel._in_poll = None  # noqa: SLF001 - listed above
            if _LOOKED_AFTER:
                channel._flush_brpop_reauth()  # noqa: SLF001 - listed above
        if found is None:
            raise Empty

        key, raw, self._noted = found
        queue = key.rsplit(channel.sep, 1)[0]
        channel._queue_cycle.rotate(queue)  # noqa: SLF001 - listed above
        try:
            channel.connection._deliver(loads(bytes_to_str(raw)), queue)  # noqa: SLF001 - listed above
        finally:
            self._noted = False
        return True

    def note(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery as unacknowledged; the script has done so in Redis."""
        if self._noted:
            virtual.QoS.append(self._channel.qos, message, delivery_tag)
        else:
            self._note(message, delivery_tag)

    def _taken(self, options: dict[str, Any]) -> tuple[str, Any, bool] | None:
        try:
            reply = self._reply("EVAL", options)
        except self._channel.ResponseError as error:
            if self._by_name:
                self._by_name = False
                return None
            self._refused = True
            logger.warning("Redis refused the script, a worker that is killed may lose a message: %s", error)
            return None

        if self._by_name is None:
            self._by_name = True
        self._forgetting.clear()
        self._all_empty = not reply
        return (self._keys[int(reply[0])], reply[1], bool(reply[2])) if reply else None

    def _forget_alone(self) -> None:
        if self._acknowledger is not None and self._forgetting:
            self._acknowledger.send(*self.hand_over())

    def _waited(self, options: dict[str, Any]) -> tuple[str, Any, bool] | None:
        self._all_empty = False
        reply = self._reply("BRPOP", options)
        return (bytes_to_str(reply[0]), reply[1], False) if reply else None

    def _reply(self, command: str, options: dict[str, Any]) -> Any:
        channel = self._channel
        try:
            return channel.client.parse_response(channel.client.connection, command, **options)
        except channel.connection_errors:
            channel.client.connection.disconnect()
            raise
