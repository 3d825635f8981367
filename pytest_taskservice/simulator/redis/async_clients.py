"""The asyncio connections of redis-py in a simulation: what ``clients`` lists, method by method."""
# ruff: noqa: SLF001 - these private parts are listed in clients.py, and checked there

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from redis.asyncio.connection import AbstractConnection

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
from pytest_taskservice.simulator.redis.loops import spend, travel, wait
from pytest_taskservice.simulator.redis.words import packed, requests_of, words_of

if TYPE_CHECKING:
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["install"]

Method = Callable[..., Any]

_BROKEN = "Error 32 while writing to socket. Broken pipe."


def install(clients: Clients, patches: Patches) -> None:
    """Lead all connections made by ``redis.asyncio.Redis`` and its pools to simulated servers."""
    made = {
        name: make(clients, getattr(AbstractConnection, name))
        for name, make in taken_over(AbstractConnection, _METHODS)
    }
    patches.methods(AbstractConnection, made)


def _connect(clients: Clients, before: Method) -> Method:
    async def connect(connection: Any, *arguments: Any, **options: Any) -> None:
        if type(connection._reader) is Line:
            return
        if not clients.takes(connection):
            await before(connection, *arguments, **options)
        elif retries and clients.obstacles(connection) is not None:
            await connection.retry.call_with_retry(
                lambda: _open(clients, connection), lambda _: connection.disconnect(nowait=True)
            )
        else:
            await _open(clients, connection)

    # Before 6 a connection that is refused is not tried again by itself.
    retries = before.__name__ == "connect" and hasattr(AbstractConnection, "connect_check_health")
    return connect


async def _open(clients: Clients, connection: Any) -> Line:
    await travel(clients.home)
    obstacles = clients.obstacles(connection)
    if obstacles is not None and obstacles.refuses():
        raise refusal(connection)
    line = clients.line(connection)
    line.loop = asyncio.get_running_loop()
    if connection.redis_connect_func is not None:
        try:
            await _awaited(connection.redis_connect_func(connection))
        except redis.RedisError:
            await connection.disconnect()
            raise
    for callback in callbacks_of(connection):
        await _awaited(callback(connection))
    return line


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _greet(clients: Clients, before: Method) -> Method:
    async def on_connect(connection: Any, *arguments: Any, **options: Any) -> None:
        # A line has been told all that HELLO, AUTH, SELECT and CLIENT would say.
        if type(connection._reader) is not Line:
            await before(connection, *arguments, **options)

    return on_connect


def _disconnect(clients: Clients, before: Method) -> Method:
    async def disconnect(connection: Any, *arguments: Any, **options: Any) -> None:
        await before(connection, *arguments, **options)
        if clients.takes(connection):
            clients.dismiss(connection)

    return disconnect


def _send_command(clients: Clients, before: Method) -> Method:
    async def send_command(connection: Any, *words: Any, **options: Any) -> None:
        if type(connection._reader) is not Line and not clients.takes(connection):
            await before(connection, *words, **options)
        else:
            request = words_of(connection.encoder, words)
            await _send(clients, connection, [request], check_health=options.get("check_health", True))

    return send_command


def _send_packed_command(clients: Clients, before: Method) -> Method:
    async def send_packed_command(connection: Any, command: Any, check_health: bool = True) -> None:
        if type(connection._reader) is not Line and not clients.takes(connection):
            await before(connection, command, check_health)
        else:
            await _send(clients, connection, requests_of(command), check_health=check_health)

    return send_packed_command


async def _send(
    clients: Clients, connection: Any, requests: list[list[bytes]], *, check_health: bool
) -> None:
    line = connection._reader
    if type(line) is not Line:
        line = await _open(clients, connection)
    _check_loop(connection, line)
    if check_health and connection.health_check_interval:
        await connection.check_health()
        line = connection._reader
    try:
        await travel(clients.home)
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    seconds = line.deliver(requests)
    if seconds is None:
        await connection.disconnect(nowait=True)
        raise redis.ConnectionError(_BROKEN)
    if seconds:
        await spend(clients.home, seconds)


def _check_loop(connection: Any, line: Line) -> None:
    """Fail as a transport does whose loop is closed: a client must not outlive the loop it was used in."""
    if line.loop is not None and line.loop.is_closed():
        line.close()
        connection._reader = connection._writer = None
        raise RuntimeError("Event loop is closed")


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
    async def can_read(connection: Any, *arguments: Any, **options: Any) -> bool:
        line = connection._reader
        if type(line) is not Line:
            if clients.takes(connection):
                raise redis.ConnectionError(CLOSED)
            return bool(await before(connection, *arguments, **options))
        _check_loop(connection, line)
        if line.ended and not line.inbox:
            raise redis.ConnectionError(CLOSED)
        return bool(line.inbox)

    return can_read


def _read_response(clients: Clients, before: Method) -> Method:
    async def read_response(
        connection: Any,
        disable_decoding: bool = False,
        timeout: float | None = None,
        *,
        disconnect_on_error: bool = True,
        push_request: bool | None = False,
        **others: Any,
    ) -> Any:
        line = connection._reader
        if type(line) is not Line:
            if clients.takes(connection):
                raise redis.ConnectionError(CLOSED)
            others |= {"disconnect_on_error": disconnect_on_error, "push_request": push_request}
            return await before(connection, disable_decoding, timeout, **others)
        _check_loop(connection, line)
        while True:
            seconds = connection.socket_timeout if timeout is None else timeout
            came = await _await_line(clients, connection, line, seconds, disconnect_on_error)
            if not came and timeout is not None:
                return None
            if not line.inbox:
                await _give_up(connection, disconnect_on_error, came=came)
            said = line.inbox.popleft()
            reply = decoded(connection, said, disable_decoding)
            if type(said) is not Push:
                break
            handler = getattr(connection._parser, "pubsub_push_handler_func", _as_it_is)
            reply = await _awaited(handler(reply))
            if push_request:
                break
        _note_health(connection)
        return raised(reply)

    return read_response


def _note_health(connection: Any) -> None:
    interval = connection.health_check_interval
    if interval:
        connection.next_health_check = asyncio.get_running_loop().time() + interval


async def _await_line(
    clients: Clients, connection: Any, line: Line, seconds: float | None, disconnect: bool
) -> bool:
    if line.inbox:
        return True
    try:
        return await wait(clients.home, line, None if seconds == math.inf else seconds)
    except BaseException:
        if disconnect:
            await connection.disconnect(nowait=True)
        raise


async def _give_up(connection: Any, disconnect: bool, *, came: bool) -> None:
    if disconnect:
        await connection.disconnect(nowait=True)
    if came:
        raise redis.ConnectionError(CLOSED)
    raise redis.TimeoutError(f"Timeout reading from {connection._host_error()}")


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
    "can_read_destructive": _can_read,
}
