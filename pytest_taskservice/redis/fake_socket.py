"""One client of the TCP server before fakeredis: replies become bytes and go to its connection.

fakeredis has a TCP server of its own, ``TcpFakeServer`` (``_clients/_tcp_server.py``), but a Celery worker
cannot live with it: Nagle is left on, 44 ms a pipeline; the connection closes after every error reply, so
chords fail; inline requests are unknown. Our own server, in ``fake_tcp``, has none of this. What is mended
in the commands themselves is told in ``mended``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fakeredis._helpers import SimpleError
from fakeredis._socket._resp import convert_to_resp2

from pytest_taskservice.redis.mended import MendedSocket, WaitingRoom
from pytest_taskservice.redis.resp import encode_reply

if TYPE_CHECKING:
    from fakeredis import FakeServer

__all__ = ["FakeTcpSocket", "Peer"]


class Peer(Protocol):
    """The connection behind a socket."""

    def write(self, reply: bytes) -> None:
        """Queue a reply of the request that runs now."""

    def push(self, reply: bytes) -> None:
        """Send a message outside of any request; from any thread."""

    def resume(self) -> None:
        """Go on with the requests that waited behind a blocking one."""

    def disconnect(self) -> None:
        """Close, after all replies went out; from any thread."""

    def call_later(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        """Run ``call`` after real ``seconds``; the returned function prevents it."""


class FakeTcpSocket(MendedSocket):
    """The commands of one connection over TCP."""

    def __init__(self, peer: Peer, store: FakeServer, room: WaitingRoom, info: dict[str, Any]) -> None:
        self._peer = peer
        self._running: bytes | None = None
        super().__init__(store, room, info)

    def execute(self, fields: list[bytes]) -> None:
        """Run one request; its reply goes to the peer, now or when it stops blocking."""
        self._running = fields[0].lower()
        try:
            self._process_command(fields)
        finally:
            self._running = None

    def answer(self, reply: Any) -> None:
        """Deliver the reply of a request that blocked, and go on with those behind it."""
        self._peer.write(self._encode(reply))
        self._peer.resume()

    def alarm(self, seconds: float) -> Callable[[], None]:
        """Have ``retry(expired=True)`` called in ``seconds``; the returned function prevents it."""
        return self._peer.call_later(seconds, partial(self.retry, expired=True))

    def put_response(self, msg: Any) -> None:
        """Send a reply; or a message, if another client publishes while no request of ours runs."""
        if self._running is None:
            self._peer.push(self._encode(msg, push=True))
        else:
            self._peer.write(self._encode(msg, push=self._running.endswith(b"subscribe")))

    def kill(self) -> None:
        """Close the connection, for CLIENT KILL."""
        super().kill()
        self._peer.disconnect()

    def _encode(self, reply: Any, *, push: bool = False) -> bytes:
        protocol = self._client_info.protocol_version
        if protocol == 2 and not isinstance(reply, SimpleError):
            reply = convert_to_resp2(reply)
        return encode_reply(reply, protocol=protocol, push=push)
