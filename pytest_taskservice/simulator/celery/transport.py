"""kombu's transport over the simulated broker: what an app's connections are while a simulation is open.

Leans on ``kombu.transport.virtual``: ``Channel``, ``QoS``, ``Transport._deliver`` and ``_callbacks``.
"""

from __future__ import annotations

from collections import deque
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeAlias

from kombu.transport import base, virtual
from kombu.transport.redis import get_redis_error_classes
from kombu.utils.json import dumps, loads
from kombu.utils.uuid import uuid

from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.redis.obstacles import caller

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.broker import Broker
    from pytest_taskservice.simulator.celery.world import CeleryWorld

__all__ = ["SimulatedTransport", "attach", "default_port", "server_of", "transport_of"]

_Errors: TypeAlias = "tuple[type[Exception], ...]"
_virtual: Any = virtual
_world: CeleryWorld | None = None


def attach(world: CeleryWorld | None) -> None:
    """Say which world's broker connections lead to."""
    global _world  # noqa: PLW0603 - kombu makes transports by class, and hands them nothing of ours
    _world = world


class SimulatedQoS(_virtual.QoS):  # type: ignore[misc] # the stubs know less than there is
    """Deliveries that the broker keeps until they are acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        itself: Any = self
        # Kept for the exit of the process, it would keep the simulation too.
        itself._on_collect.cancel()  # noqa: SLF001 - the stubs lack it

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery."""
        super().append(message, delivery_tag)
        channel = self.channel
        channel.broker.delivered(delivery_tag, message.sim_queue, message._raw, channel)  # noqa: SLF001 - as Redis

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge it."""
        self._check()
        super().ack(delivery_tag)
        self.channel.broker.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give it back, or drop it."""
        self._check()
        super().ack(delivery_tag)
        channel: Any = self.channel
        broker: Broker = channel.broker
        if requeue:
            # kombu puts it at the far end of a Redis list.
            broker.restore(delivery_tag, behind=broker.rules.kind == "redis")
        else:
            broker.acknowledge(delivery_tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give back what was delivered to a channel that closes."""
        itself: Any = self
        itself._flush()  # noqa: SLF001 - the stubs lack it
        tags = list(itself._delivered)  # noqa: SLF001 - they allow None
        itself._delivered.clear()  # noqa: SLF001 - as above
        itself.channel.give_back(tags)

    def _check(self) -> None:
        channel: Any = self.channel
        channel.broker.check(channel.client_name)
        # Redis knows no channels: whoever has the tag may acknowledge it, as kombu does, connected once more.
        if channel.closed and channel.broker.rules.kind == "amqp":
            raise ConnectionResetError(104, "the delivery's channel is closed")


class SimulatedMessage(_virtual.Message):  # type: ignore[misc] # as above
    """A message that knows which queue it came from."""

    sim_queue = ""


class SimulatedChannel(_virtual.Channel):  # type: ignore[misc] # as above
    """One channel; as a consumer it takes messages for its connection."""

    QoS = SimulatedQoS
    Message = SimulatedMessage
    supports_fanout = True
    body_encoding = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.broker: Broker = connection.broker
        self._on_the_way: list[tuple[str, dict[str, Any]]] = []
        self._no_ack_queues: set[str] = set()
        self._process = connection.process
        self.client_name: str = connection.client_name
        self._handed_at = 0.0
        super().__init__(connection, **kwargs)

    def free(self) -> bool:
        """Return whether the prefetch count leaves room for one more."""
        process = self.process()
        if (
            process is not None
            and self.broker.rules.kind == "redis"
            and not process.listens(self.broker.kick)
        ):
            # A Redis hands out what is asked for, and a process that is busy or stopped asks for nothing.
            return False
        qos = self.qos
        limit = qos.prefetch_count
        return not limit or len(qos._delivered) - len(qos._dirty) + len(self._on_the_way) < limit  # noqa: SLF001 - as kombu

    def take(self, raw: dict[str, Any], queue: str) -> None:
        """Hand a message to the process behind the connection."""
        connection = self.connection
        if connection is None:
            return
        if connection.process is None:
            connection.inbox.append((raw, queue))
            return
        self._on_the_way.append((queue, raw))
        if self.broker.rules.kind == "amqp" and queue not in self._no_ack_queues:
            self.broker.delivered(raw["properties"]["delivery_tag"], queue, raw, self)
        if self.broker.ways.apart or self._handed_at:
            self._hand_late(raw, queue)
            return
        connection.process.post(self._receive, raw, queue)

    def _hand_late(self, raw: dict[str, Any], queue: str) -> None:
        """Hand a message over that takes its time, behind those before it."""
        assert _world is not None
        simulation = _world.simulation
        now = simulation.elapsed
        self._handed_at = at = max(self._handed_at, now + self.broker.ways.delay(self.client_name, raw))
        simulation.after(at - now, self._process.post, self._receive, raw, queue)

    def on_the_way(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what the process was handed and has not looked at."""
        return self._on_the_way

    def give_back(self, tags: list[str]) -> None:
        """Let the broker have the deliveries ``tags`` again."""
        assert _world is not None
        if not _world.simulation.closed:
            self.broker.closed(self, tags)

    def process(self) -> Any:
        """Return the worker that the channel belongs to, or did until it was closed, if any."""
        return self._process

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> Any:
        """Consume from ``queue``."""
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)
        if no_ack:
            self._no_ack_queues.add(queue)

        def received(raw: dict[str, Any]) -> Any:
            message = self.Message(raw, channel=self)
            message.sim_queue = queue
            if not no_ack:
                self.qos.append(message, message.delivery_tag)
            return callback(message)

        self.connection._callbacks[queue] = received  # noqa: SLF001 - as virtual.Channel does
        self._consumers.add(consumer_tag)
        self.broker.consume(queue, self)

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Stop consuming."""
        queue = self._tag_to_queue.get(consumer_tag)
        if queue is not None:
            self.broker.leave(queue, self)
        return super().basic_cancel(consumer_tag)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message, if there is one."""
        self._talk()
        self.broker.arrive_now(queue)
        raw = self.broker.get(queue)
        if raw is None:
            return None
        message = self.Message(raw, channel=self)
        message.sim_queue = queue
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def _receive(self, raw: dict[str, Any], queue: str) -> None:
        self._on_the_way.pop(0)
        connection = self.connection
        if connection is None or queue not in connection._callbacks:  # noqa: SLF001 - as virtual.Transport does
            tag = raw["properties"]["delivery_tag"]
            if self.closed and self.broker.rules.kind == "amqp":
                # The broker took it back when the channel closed.
                return
            self.broker.delivered(tag, queue, raw, self)
            self.broker.restore(tag)
            return
        connection._deliver(raw, queue)  # noqa: SLF001 - as kombu's own transports do

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish; whoever is to hear of it is there first, or no queue of his would be found."""
        if _world is not None and _world.before_send is not None and self.connection.process is None:
            _world.before_send()
        return super().basic_publish(message, exchange, routing_key, **kwargs)

    def _talk(self) -> None:
        broker, client = self.broker, self.client_name
        broker.check(client)
        assert _world is not None
        cost = _world.simulation.random.between("publish", broker.latency.publish)
        _world.simulation.spend(cost + broker.ways.of(client).slower)
        broker.check(client)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        self._send([queue], message)

    def _put_fanout(
        self, exchange: str, message: dict[str, Any], routing_key: str = "", **kwargs: Any
    ) -> None:
        self._send(sorted(self._lookup(exchange, routing_key)), message)

    def _send(self, queues: list[str], message: dict[str, Any]) -> None:
        assert _world is not None
        if _world.route is not None and self.connection.process is None:
            _world.route(queues, message["headers"] or {})
        self._talk()
        if (wire := self.broker.ways.of(self.client_name).wire) is not None:
            _world.simulation.spend(wire.seconds(message))
        _world.sent(queues, message)
        if self.broker.rules.kind == "amqp":
            # A frame has room for these only: kombu's client drops what else it is handed.
            properties = message["properties"]
            known = {name: properties[name] for name in _AMQP_PROPERTIES if name in properties}
            message = {**message, "properties": known}
        for number, queue in enumerate(queues):
            copy = _copied(message)
            if number:
                copy["properties"]["delivery_tag"] = uuid()
            self.broker.publish(queue, copy)

    def _queue_bind(self, *args: Any) -> None:
        """Keep no table of our own: the exchange has one."""

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self.broker.check(self.client_name)
        self.broker.declare(queue, kwargs.get("arguments"))

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        raw = self.broker.get(queue)
        if raw is None:
            raise Empty
        return raw

    def _size(self, queue: str) -> int:
        self.broker.arrive_now(queue)
        return self.broker.size(queue)

    def _purge(self, queue: str) -> int:
        self.broker.arrive_now(queue)
        return self.broker.purge(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self.broker.purge(queue)


class SimulatedTransport(_virtual.Transport):  # type: ignore[misc] # as above
    """A connection to the broker that its URL names."""

    Channel = SimulatedChannel
    driver_type = "simulator"
    driver_name = "simulator"
    default_port = 0
    # Without these kombu would never try a failed publish again.
    connection_errors: _Errors = (OSError,)
    recoverable_connection_errors: _Errors = connection_errors
    channel_errors: _Errors = ()
    recoverable_channel_errors: _Errors = ()
    implements = base.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct", "topic", "fanout"]), heartbeats=False
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        assert _world is not None, "kombu was asked for a connection outside of a simulation"
        fiber = current_fiber()
        self.process: Any = getattr(fiber and fiber.process, "main", None)
        self.client_name = caller()
        """Whose it is: a worker's name, ``beat`` or, where it is the test's, nothing."""
        self.inbox: deque[tuple[dict[str, Any], str]] = deque()
        self.broker = _world.broker_of(client)
        self.state = _world.exchanges_of(client)
        if driver := _driver_of(client.transport_cls):
            self.driver_type, self.driver_name = driver

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Return what kombu's own transport adds to a URL: an app shows it to its users."""
        defaults = {"port": default_port(self.client), "hostname": "localhost"}
        return _AMQP_DEFAULTS | defaults if self.driver_type == "amqp" else defaults

    def driver_version(self) -> str:
        """Return what stands where a client library's version would."""
        return "simulated"

    def establish_connection(self) -> Any:
        """Connect; refused during an outage."""
        self.broker.check(self.client_name)
        return super().establish_connection()

    def verify_connection(self, connection: Any) -> bool:
        """Return whether the broker answers."""
        return not self.broker.ways.of(self.client_name).down

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for one message, in virtual time."""
        assert _world is not None
        self.broker.check(self.client_name)
        inbox = self.inbox
        if not _world.simulation.wait(lambda: bool(inbox), timeout=timeout, what="a message"):
            raise TimeoutError
        raw, queue = inbox.popleft()
        if queue in self._callbacks:
            self._deliver(raw, queue)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Do nothing: messages are handed over."""

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Do nothing, as above."""


class SimulatedRedisTransport(SimulatedTransport):
    """To a Redis: an app's other connections to it may fail too, and its workers connect once more then."""

    connection_errors, channel_errors = get_redis_error_classes()
    # kombu's own says nothing of these, which means all of them.
    recoverable_connection_errors = connection_errors + channel_errors


def transport_of(scheme: str) -> type[SimulatedTransport]:
    """Return what connections with such a URL have for a transport."""
    return SimulatedRedisTransport if scheme.partition("+")[0] in _ON_REDIS else SimulatedTransport


def default_port(client: Any) -> int:
    """Return the port that a broker's URL means if it names none; 0 for those that have none."""
    driver, _ = _driver_of(client.transport_cls) or ("", "")
    if driver == "amqp":
        return 5671 if client.ssl or client.transport_cls == "amqps" else 5672
    return 6379 if driver == "redis" else 0


def server_of(client: Any) -> tuple[str, int]:
    """Return host and port of a connection's Redis, or the path of its Unix socket and 0."""
    if "socket" in str(client.transport_cls):
        return f"/{str(client.virtual_host or '').lstrip('/')}", 0
    return str(client.hostname or "localhost"), int(client.port or default_port(client))


def _driver_of(scheme: Any) -> tuple[str, str] | None:
    name = str(scheme).partition("+")[0]
    return {
        "redis": ("redis", "redis"), "rediss": ("redis", "redis"),
        "amqp": ("amqp", "py-amqp"), "amqps": ("amqp", "py-amqp"), "pyamqp": ("amqp", "py-amqp"),
    }.get(name)  # fmt: skip


def _copied(value: Any) -> Any:
    """Return a copy as it is on the other side of a wire; what is no JSON goes through kombu's own."""
    kind = type(value)
    plain = _PLAIN
    if kind is dict:
        return {key: item if type(item) in plain else _copied(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [item if type(item) in plain else _copied(item) for item in value]
    if kind in plain:
        return value
    return loads(dumps(value))


_ON_REDIS = frozenset({"redis", "rediss", "sentinel"})
_AMQP_DEFAULTS = {"userid": "guest", "password": "guest", "login_method": "PLAIN"}
_AMQP_PROPERTIES = (
    "content_type", "content_encoding", "application_headers", "delivery_mode", "priority", "correlation_id",
    "reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
    "delivery_info", "delivery_tag", "body_encoding",
)  # fmt: skip
_PLAIN = frozenset({str, int, float, bool, type(None), bytes})
