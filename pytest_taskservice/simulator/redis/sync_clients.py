"""The blocking connections of redis-py in a simulation: what ``clients`` lists, method by method.

Each function makes one method. The method asks first whether the connection holds a :class:`.Line`,
for most calls do; what belongs to no simulation goes to redis-py's own.
"""
# ruff: noqa: SLF001 - these private parts are listed in clients.py, and checked there

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from redis.connection import AbstractConnection, ConnectionPool

from pytest_taskservice.simulator.redis.clients import (
    CLOSED,
    Clients,
    callbacks_of,
    decoded,
    raised,
    refusal,
    taken_over,
)
from pytest_taskservice.simulator.redis.line import Line, Push
from pytest_taskservice.simulator.redis.words import packed, requests_of, words_of

if TYPE_CHECKING:
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["install"]

Method = Callable[..., Any]

_ABSENT: Any = object()
_LEAVING = frozenset({b"UNSUBSCRIBE", b"PUNSUBSCRIBE"})
_BROKEN = "Error 32 while writing to socket. Broken pipe."


def install(clients: Clients, patches: Patches) -> None:
    """Lead all connections made by ``redis.Redis`` and its pools to simulated servers."""
    made = {
        name: make(clients, getattr(AbstractConnection, name))
        for name, make in taken_over(AbstractConnection, _METHODS)
    }
    patches.methods(AbstractConnection, made)
    patches.set(ConnectionPool, "get_connection", _get_connection(ConnectionPool.get_connection))


def _get_connection(before: Method) -> Method:
    def get_connection(pool: Any, *arguments: Any, **options: Any) -> Any:
        # A line that is ready needs none of the checks and metrics that cost a third of a command.
        if type(pool) is ConnectionPool and pool._available_connections:
            with pool._lock:
                available = pool._available_connections
                line = getattr(available[-1], "_sock", None) if available else None
                if type(line) is Line and not line.ready():
                    connection = available.pop()
                    pool._in_use_connections.add(connection)
                    return connection
        return before(pool, *arguments, **options)

    return get_connection


def _connect(clients: Clients, before: Method) -> Method:
    def connect(connection: Any, *arguments: Any, **options: Any) -> None:
        if type(connection._sock) is Line:
            return
        if not clients.takes(connection):
            before(connection, *arguments, **options)
        elif retries and clients.obstacles(connection) is not None:
            connection.retry.call_with_retry(lambda: _open(clients, connection), connection.disconnect)
        else:
            _open(clients, connection)

    # Before 6 a connection that is refused is not tried again by itself.
    retries = before.__name__ == "connect" and hasattr(AbstractConnection, "connect_check_health")
    return connect


def _open(clients: Clients, connection: Any) -> Line:
    clients.home.travel()
    obstacles = clients.obstacles(connection)
    if obstacles is not None and obstacles.refuses():
        raise refusal(connection)
    line = clients.line(connection)
    if connection.redis_connect_func is not None:
        try:
            connection.redis_connect_func(connection)
        except redis.RedisError:
            connection.disconnect()
            raise
    for callback in callbacks_of(connection):
        callback(connection)
    return line


def _greet(clients: Clients, before: Method) -> Method:
    def on_connect(connection: Any, *arguments: Any, **options: Any) -> None:
        # A line has been told all that HELLO, AUTH, SELECT and CLIENT would say.
        if type(connection._sock) is not Line:
            before(connection, *arguments, **options)

    return on_connect


def _disconnect(clients: Clients, before: Method) -> Method:
    def disconnect(connection: Any, *arguments: Any, **options: Any) -> None:
        before(connection, *arguments, **options)
        if clients.takes(connection):
            clients.dismiss(connection)

    return disconnect


def _send_command(clients: Clients, before: Method) -> Method:
    def send_command(connection: Any, *words: Any, **options: Any) -> None:
        if type(connection._sock) is not Line and not clients.takes(connection):
            before(connection, *words, **options)
        else:
            request = words_of(connection.encoder, words)
            _send(clients, connection, [request], check_health=options.get("check_health", True))

    return send_command


def _send_packed_command(clients: Clients, before: Method) -> Method:
    def send_packed_command(connection: Any, command: Any, check_health: bool = True) -> None:
        if type(connection._sock) is not Line and not clients.takes(connection):
            before(connection, command, check_health)
        else:
            _send(clients, connection, requests_of(command), check_health=check_health)

    return send_packed_command


def _send(clients: Clients, connection: Any, requests: list[list[bytes]], *, check_health: bool) -> None:
    line = connection._sock
    if type(line) is not Line:
        line = _open(clients, connection)
    if requests and requests[0][0] in _LEAVING:
        # Nobody waits for that: it may be the finalizer of a result that leaves its channel.
        line.deliver(requests)
        return
    if check_health and connection.health_check_interval:
        connection.check_health()
        line = connection._sock
    try:
        clients.home.travel()
    except BaseException:
        connection.disconnect()
        raise
    seconds = line.deliver(requests)
    if seconds is None:
        connection.disconnect()
        raise redis.ConnectionError(_BROKEN)
    clients.home.spend(seconds)


def _pack_command(clients: Clients, before: Method) -> Method:
    def pack_command(connection: Any, *words: Any) -> Any:
        return (
            packed(connection.encoder, [words]) if clients.takes(connection) else before(connection, *words)
        )

    return pack_command


def _pack_commands(clients: Clients, before: Method) -> Method:
    def pack_commands(connection: Any, commands: Any) -> Any:
        return (
            packed(connection.encoder, commands)
            if clients.takes(connection)
            else before(connection, commands)
        )

    return pack_commands


def _can_read(clients: Clients, before: Method) -> Method:
    def can_read(connection: Any, timeout: float | None = 0) -> bool:
        line = connection._sock
        if type(line) is not Line:
            if not clients.takes(connection):
                return bool(before(connection, timeout))
            line = _open(clients, connection)
        if line.inbox:
            return True
        if timeout != 0:
            clients.home.wait(line, timeout)
        elif line.subscribed:
            # Who asks again and again must see time pass.
            clients.home.travel()
        if line.ended and not line.inbox:
            raise redis.ConnectionError(CLOSED)
        return bool(line.inbox)

    return can_read


def _read_response(clients: Clients, before: Method) -> Method:
    def read_response(
        connection: Any,
        disable_decoding: bool = False,
        *,
        timeout: Any = _ABSENT,
        disconnect_on_error: bool = True,
        push_request: bool = False,
        **others: Any,
    ) -> Any:
        line = connection._sock
        if type(line) is not Line:
            if clients.takes(connection):
                raise redis.ConnectionError(CLOSED)
            if timeout is not _ABSENT:
                others["timeout"] = timeout
            others |= {"disconnect_on_error": disconnect_on_error, "push_request": push_request}
            return before(connection, disable_decoding, **others)
        seconds = connection.socket_timeout if timeout is _ABSENT else timeout
        while True:
            said = _take(clients, connection, line, seconds, disconnect_on_error)
            reply = decoded(connection, said, disable_decoding)
            if type(said) is not Push:
                break
            reply = getattr(connection._parser, "pubsub_push_handler_func", _as_it_is)(reply)
            if push_request:
                break
        interval = connection.health_check_interval
        if interval:
            connection.next_health_check = clients.home.simulation.monotonic() + interval
        return raised(reply)

    return read_response


def _take(clients: Clients, connection: Any, line: Line, seconds: float | None, disconnect: bool) -> Any:
    """Return what comes in next, as the server said it."""
    if not line.inbox:
        try:
            came = clients.home.wait(line, seconds)
        except BaseException:
            if disconnect:
                connection.disconnect()
            raise
        if not line.inbox:
            if disconnect:
                connection.disconnect()
            if came:
                raise redis.ConnectionError(CLOSED)
            raise redis.TimeoutError(f"Timeout reading from {connection._host_error()}")
    return line.inbox.popleft()


def _as_it_is(reply: Any) -> Any:
    return reply


_METHODS: dict[str, Callable[[Clients, Method], Method]] = {
    "connect": _connect,
    "connect_check_health": _connect,
    "on_connect": _greet,
    "on_connect_check_health": _greet,
    "disconnect": _disconnect,
    "send_command": _send_command,
    "send_packed_command": _send_packed_command,
    "pack_command": _pack_command,
    "pack_commands": _pack_commands,
    "read_response": _read_response,
    "can_read": _can_read,
}
