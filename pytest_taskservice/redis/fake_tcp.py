"""Serving a fakeredis over TCP: one thread with one event loop, like the server it stands for."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

# Bound at import: a library that moves clocks in a test must not stop this server.
from time import perf_counter
from typing import TYPE_CHECKING, cast

from fakeredis import FakeServer

from pytest_taskservice.redis.fake_socket import FakeTcpSocket
from pytest_taskservice.redis.mended import REDIS_VERSION, WaitingRoom, check_seams, failure
from pytest_taskservice.redis.resp import ProtocolError, RequestParser, encode_reply
from taskservice.programs import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FakeTcpServer"]

BACKLOG = 511

logger = logging.getLogger(__name__)


class FakeTcpServer:
    """Serves one :class:`fakeredis.FakeServer` on a port of the loopback, until ``close``."""

    def __init__(self, *, timeout: float = 10.0) -> None:
        check_seams()
        self.store = FakeServer(version=REDIS_VERSION)
        self._timeout = timeout
        self._loop = _RealTimeLoop()
        self._room = WaitingRoom(self._wake)
        self._connections: set[_Connection] = set()
        listener = socket.create_server((LOOPBACK, 0), backlog=BACKLOG)
        self.port: int = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=self._serve, args=(listener,), name=f"fakeredis-{self.port}", daemon=True
        )
        self._serving = threading.Event()
        self._thread.start()
        self._serving.wait(timeout)

    def close(self) -> None:
        """Cut all connections, free the port and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(self._timeout)

    def _wake(self) -> None:
        # A request in our own thread serves the waiting itself, at its end and before the next
        # request.
        if threading.current_thread() is not self._thread:
            self._loop.call_soon_threadsafe(self._room.serve)

    def _serve(self, listener: socket.socket) -> None:
        loop = self._loop
        server = loop.run_until_complete(loop.create_server(self._connect, sock=listener))
        loop.call_soon(self._serving.set)
        try:
            loop.run_forever()
        finally:
            server.close()
            for connection in list(self._connections):
                connection.abort()
            # Transports close their sockets in the loop's next turn.
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    def _connect(self) -> _Connection:
        return _Connection(self.store, self._room, self._connections, self._loop)


class _RealTimeLoop(asyncio.SelectorEventLoop):
    def time(self) -> float:
        return perf_counter()


class _Connection(asyncio.Protocol):
    """One client: requests in, replies out, in order; a blocked one holds back the later."""

    def __init__(
        self,
        store: FakeServer,
        room: WaitingRoom,
        connections: set[_Connection],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._store = store
        self._room = room
        self._connections = connections
        self._loop = loop
        self._parser = RequestParser()
        self._output = bytearray()
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        # A peer that has reset the connection by now has no name any more.
        here, there = (
            "{}:{}".format(*(transport.get_extra_info(name) or ("", 0))) for name in ("sockname", "peername")
        )
        self._socket = FakeTcpSocket(
            self, self._store, self._room, {"laddr": here, "addr": there, "flags": "N"}
        )

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        self._run_requests()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._connections.discard(self)
        self._socket.stop_waiting()
        self._socket.close()

    def abort(self) -> None:
        """Cut the connection without another word."""
        self._transport.abort()

    def write(self, reply: bytes) -> None:
        """Queue a reply, so that a burst of requests is answered in one segment."""
        self._output += reply

    def push(self, reply: bytes) -> None:
        """Send a message outside of any request; from any thread."""
        self._loop.call_soon_threadsafe(self._send, reply)

    def resume(self) -> None:
        """Go on with the requests behind a blocking one, after the other clients' turn."""
        self._loop.call_soon(self._run_requests)

    def disconnect(self) -> None:
        """Close, after all replies went out; from any thread."""
        self._loop.call_soon_threadsafe(self._end)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        """Run ``call`` after real ``seconds``; the returned function prevents it."""
        return self._loop.call_later(seconds, call).cancel

    def _run_requests(self) -> None:
        try:
            while not self._closing and not self._socket.waiting:
                fields = self._parser.next_request()
                if fields is None:
                    break
                self._answer(fields)
        except ProtocolError as error:
            self.write(f"-ERR Protocol error: {error}\r\n".encode())
            self._end()
        self._send(b"")

    def _answer(self, fields: list[bytes]) -> None:
        if fields[0].lower() == b"quit":
            self.write(b"+OK\r\n")
            self._end()
            return

        try:
            self._socket.execute(fields)
        except Exception as error:  # noqa: BLE001 - a fault of fakeredis fails one request, not the server
            logger.warning("fakeredis failed at %r: %r", fields[0], error)
            self.write(encode_reply(failure(error), protocol=2))
        self._room.serve()

    def _send(self, reply: bytes) -> None:
        self._output += reply
        if self._output and not self._transport.is_closing():
            self._transport.write(bytes(self._output))
        self._output.clear()

    def _end(self) -> None:
        self._send(b"")
        self._closing = True
        self._transport.close()
