"""redis-py's connections, led to simulated servers: every place of redis-py we reach into, and why.

Cut in at the connection, so that everything above it is redis-py's own: clients made before the
simulation opened, pools, pipelines, transactions, scripts, locks, pub/sub. While a simulation is open,
these methods of ``redis.connection.AbstractConnection``, and of asyncio's, are ours:

- ``connect``, ``on_connect``, ``disconnect``; if any, ``connect_check_health``, ``on_connect_check_health``
- ``send_command``, ``send_packed_command``, ``pack_command``, ``pack_commands``
- ``read_response``, ``can_read``, and asyncio's ``can_read_destructive``

and ``ConnectionPool.get_connection``, with ``_available_connections``, ``_in_use_connections`` and ``_lock``.

A :class:`.Line` stands where the socket would: in ``_sock``, or in ``_reader`` and ``_writer``. What was
there, of a connection that was really connected, is put back afterwards. A class with a ``_connect`` of its
own, fakeredis's for one, is let alone. Besides, read: ``encoder``, ``_parser.parse_error``,
``_parser.pubsub_push_handler_func``, ``db``, ``protocol``, ``client_name``, ``driver_info``, ``lib_name``,
``health_check_interval``, ``next_health_check``, ``redis_connect_func``, ``_connect_callbacks``,
``_host_error``.

:func:`check_seams` fails with a clear message once one of these places is gone.
"""
# ruff: noqa: SLF001 - these private parts are listed above, and checked below

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio.connection as async_connection
import redis.connection as sync_connection

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.simulator.redis.line import Line
from pytest_taskservice.simulator.redis.words import told

if TYPE_CHECKING:
    from pytest_taskservice.simulator.redis.obstacles import Obstacles
    from pytest_taskservice.simulator.redis.simulated import SimulatedRedis

__all__ = [
    "CLOSED",
    "Clients",
    "address_of",
    "callbacks_of",
    "check_seams",
    "decoded",
    "raised",
    "refusal",
    "taken_over",
]

Maker = Callable[[Any, Callable[..., Any]], Callable[..., Any]]

CLOSED = "Connection closed by server."
METHODS = (
    "connect", "disconnect", "on_connect", "pack_command", "pack_commands", "read_response", "send_command",
    "send_packed_command",
)  # fmt: skip
_CLASSES = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
_READ = (
    "encoder",
    "db",
    "client_name",
    "health_check_interval",
    "next_health_check",
    "redis_connect_func",
    "_parser",
)
_HOLDERS = {"sync": ("_sock",), "asyncio": ("_reader", "_writer")}


class Clients:
    """The connections of one kind, ``"sync"`` or ``"asyncio"``, that a simulation has taken over."""

    def __init__(self, home: SimulatedRedis, kind: str) -> None:
        self.home = home
        self._module: Any = sync_connection if kind == "sync" else async_connection
        self._holders = _HOLDERS[kind]
        self._real = [getattr(self._module, name)._connect for name in _CLASSES]
        self._taken: dict[type, bool] = {}
        # What a connection had before: its socket, or its streams, and when its health was to be checked.
        self._before: weakref.WeakKeyDictionary[Any, tuple[list[Any], float]] = weakref.WeakKeyDictionary()

    def takes(self, connection: Any) -> bool:
        """Return whether a connection is to be led to a simulated server."""
        if self.home.closed:
            return False
        kind = type(connection)
        found = self._taken.get(kind)
        if found is None:
            found = self._taken[kind] = kind._connect in self._real
        return found

    def line(self, connection: Any) -> Line:
        """Connect: put a new line where the socket would be."""
        found = address_of(connection)
        line = self.home.may_break(
            Line(
                self.home.store(*found),
                database=int(connection.db or 0),
                protocol=int(getattr(connection, "protocol", 2) or 2),
                info=_introduction(connection),
            )
        )
        if connection not in self._before:
            held = [getattr(connection, name) for name in self._holders]
            self._before[connection] = held, connection.next_health_check
            connection.next_health_check = 0
        self._hold(connection, [line] * len(self._holders))
        with suppress(AttributeError):  # not in every version
            connection.handshake_metadata = {
                b"server": b"redis", b"version": b"7.4.0", b"proto": line.protocol, b"mode": b"standalone",
                b"role": b"master",
            }  # fmt: skip
        return line

    def obstacles(self, connection: Any) -> Obstacles | None:
        """Return what stands in the way to a connection's server, if anything does."""
        return self.home.store(*address_of(connection)).obstacles

    def dismiss(self, connection: Any) -> None:
        """Close, too, what a connection had before the simulation: it was told to disconnect."""
        held, health = self._before.get(connection, ([], 0.0))
        for stream in held:
            with suppress(Exception):  # its loop, or its peer, may be gone
                stream.close()
        self._before[connection] = [None] * len(self._holders), health

    def give_back(self) -> None:
        """Put back what connections had."""
        for connection, (held, health) in list(self._before.items()):
            line = getattr(connection, self._holders[0], None)
            if isinstance(line, Line):
                line.close()
            self._hold(connection, held)
            connection.next_health_check = health
        self._before.clear()

    def _hold(self, connection: Any, values: list[Any]) -> None:
        for name, value in zip(self._holders, values, strict=True):
            setattr(connection, name, value)


def address_of(connection: Any) -> tuple[str, int]:
    """Return host and port, or the path of a Unix socket and 0."""
    path = getattr(connection, "path", None)
    return (str(path), 0) if path is not None else (str(connection.host), int(connection.port))


def refusal(connection: Any) -> redis.ConnectionError:
    """Return redis-py's error for a server at whose port nobody listens."""
    return redis.ConnectionError(f"Error 111 connecting to {connection._host_error()}. Connection refused.")


def decoded(connection: Any, reply: Any, disable_decoding: bool) -> Any:
    """Return a reply as a parser would, with strings if the client wants them; an error is an exception."""
    if type(reply) is bytes and not connection.encoder.decode_responses:
        return reply
    encoder = connection.encoder
    wants_text = encoder.decode_responses and not disable_decoding
    return told(reply, encoder if wants_text else None, connection._parser)


def raised(reply: Any) -> Any:
    """Return what ``read_response`` returns for a decoded reply, or raise it."""
    if isinstance(reply, redis.ConnectionError | redis.ResponseError):
        raise reply
    return reply


def callbacks_of(connection: Any) -> Iterator[Any]:
    """Return who wants to know that a connection is new: weak references, since 5."""
    for reference in list(connection._connect_callbacks):
        callback = reference() if isinstance(reference, weakref.ref) else reference
        if callback is not None:
            yield callback


def taken_over(base: type, makers: dict[str, Maker]) -> Iterator[tuple[str, Maker]]:
    """Return which of ``makers``' methods there are in this version of redis-py."""
    return ((name, make) for name, make in makers.items() if name in METHODS or hasattr(base, name))


def check_seams() -> None:
    """Raise :class:`SimulationError` if a place that the simulation reaches into is gone."""
    gone: list[str] = []
    for module, extra in ((sync_connection, "_sock"), (async_connection, "_reader")):
        base = module.AbstractConnection
        gone += [f"{module.__name__}.{name}" for name in METHODS if not hasattr(base, name)]
        gone += [
            f"{module.__name__}.{name}._connect"
            for name in _CLASSES
            if not hasattr(getattr(module, name, None), "_connect")
        ]
        connection = module.Connection()
        gone += [
            f"{module.__name__}: {name}"
            for name in (*_READ, extra, "_connect_callbacks", "host", "port")
            if not hasattr(connection, name)
        ]
        if not hasattr(connection._parser, "parse_error"):
            gone.append(f"{module.__name__}: _parser.parse_error")
    pool = redis.ConnectionPool()
    gone += [
        f"ConnectionPool.{name}"
        for name in ("_available_connections", "_in_use_connections", "_lock")
        if not hasattr(pool, name)
    ]
    if gone:
        raise SimulationError(
            f"redis-py {redis.__version__} has changed at {', '.join(gone)}: "
            "the simulator does not know this version"
        )


def _introduction(connection: Any) -> dict[str, Any]:
    """Return what CLIENT SETNAME, SETINFO and AUTH would have told the server."""
    driver = getattr(connection, "driver_info", None)
    name = getattr(driver, "formatted_name", None) or getattr(connection, "lib_name", None) or ""
    number = getattr(driver, "lib_version", None) or getattr(connection, "lib_version", None) or ""
    host, port = address_of(connection)
    return {
        "addr": "127.0.0.1:0",
        "laddr": f"{host}:{port}",
        "name": connection.client_name or "",
        "flags": "N",
        "db": int(connection.db or 0),
        "lib-name": name,
        "lib-ver": number,
    }
