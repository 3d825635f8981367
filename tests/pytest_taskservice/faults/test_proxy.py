"""The proxy alone: what each fault does to a connection to a plain echo server."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_taskservice.faults.proxy import Proxy, Toxic
from pytest_taskservice.redis import RedisRequest, acquire

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 5.0
NEVER = 0.1


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)
        except ConnectionError:
            return


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says what it hears."""
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield ("127.0.0.1", server.server_address[1])
        server.shutdown()


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy before it."""
    found = Proxy(*echo)
    yield found
    found.close()


def connect(proxy: Proxy, door: str = "client") -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.door(door)), timeout=SOON)


def say(client: socket.socket, text: bytes = b"hello") -> bytes:
    client.sendall(text)
    heard = b""
    while len(heard) < len(text):
        if not (more := client.recv(1 << 16)):
            break
        heard += more
    return heard


def took(client: socket.socket, text: bytes = b"hello") -> float:
    started = time.monotonic()
    assert say(client, text) == text
    return time.monotonic() - started


def test_what_is_sent_arrives_and_is_answered(proxy: Proxy) -> None:
    long = bytes(range(256)) * 4000

    with connect(proxy) as client:
        assert say(client, long) == long


def test_latency_keeps_each_answer_back(proxy: Proxy) -> None:
    with connect(proxy) as client:
        say(client)
        proxy.add(slow := Toxic(kind="latency", by=0.15))

        assert took(client) >= 0.15
        proxy.remove(slow)
        assert took(client) < 0.15


def test_latency_does_not_add_up_over_what_is_under_way(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.add(Toxic(kind="latency", by=0.2))

        assert took(client, b"x" * (1 << 20)) < 1.0


def test_bandwidth_bounds_the_bytes_a_second(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.add(Toxic(kind="bandwidth", rate=10_000))

        # Both ways at once, each in pieces of a twentieth of a second; the last one's pause is nobody's.
        assert took(client, b"x" * 2_000) >= 0.14


def test_a_slicer_cuts_into_pieces(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proxy.add(Toxic(kind="slicer", size=2, by=0.02))

        client.sendall(b"hello")

        assert [client.recv(100), client.recv(100), client.recv(100)] == [b"he", b"ll", b"o"]


def test_a_timeout_accepts_and_is_silent_until_it_is_over(proxy: Proxy) -> None:
    silence = Toxic(kind="timeout")
    proxy.add(silence)

    with connect(proxy) as client:
        client.sendall(b"hello")
        client.settimeout(NEVER)
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.remove(silence)
        client.settimeout(SOON)

        assert client.recv(100) == b"hello"


def test_down_cuts_and_refuses_and_comes_back_on_the_same_port(proxy: Proxy) -> None:
    with connect(proxy) as client:
        say(client)
        port = proxy.door("client")
        proxy.add(outage := Toxic(kind="down"))

        with closing(client):
            assert _is_cut(client)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    proxy.remove(outage)

    assert proxy.door("client") == port
    with connect(proxy) as client:
        assert say(client) == b"hello"


def test_a_reset_is_an_rst_and_over_at_once(proxy: Proxy) -> None:
    with connect(proxy) as client:
        say(client)

        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with connect(proxy) as client:
        assert say(client) == b"hello"


def test_reset_peer_that_lasts_resets_whoever_comes(proxy: Proxy) -> None:
    proxy.add(Toxic(kind="reset_peer"))

    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(100)


def test_one_door_can_be_shut_and_the_other_not(proxy: Proxy) -> None:
    with connect(proxy, "worker1") as one, connect(proxy, "worker2") as other:
        say(one), say(other)

        proxy.add(Toxic(kind="down", doors="worker1"))

        assert _is_cut(one)
        assert say(other) == b"hello"


def test_a_door_made_during_an_outage_is_shut_too(proxy: Proxy) -> None:
    proxy.add(Toxic(kind="down"))

    with pytest.raises(ConnectionRefusedError):
        connect(proxy, "late")


def test_a_client_of_redis_meets_it_as_from_the_server() -> None:
    server = acquire(RedisRequest(choice="embedded"))
    proxy = Proxy("127.0.0.1", int(server.url.rpartition(":")[2].partition("/")[0]))
    try:
        client = redis.Redis(port=proxy.door("client"), socket_timeout=NEVER, retry=Retry(NoBackoff(), 0))
        client.set("a", "b")
        proxy.add(outage := Toxic(kind="down"))
        with pytest.raises(redis.exceptions.ConnectionError):
            client.get("a")
        proxy.remove(outage)
        proxy.add(silence := Toxic(kind="timeout"))
        with pytest.raises(redis.exceptions.TimeoutError):
            client.get("a")
        proxy.remove(silence)

        assert client.get("a") == b"b"
        client.close()
    finally:
        proxy.close()
        server.close()


def test_closing_leaves_neither_thread_nor_port(echo: tuple[str, int]) -> None:
    proxy = Proxy(*echo)
    port = proxy.door("client")
    with connect(proxy) as client:
        say(client)

        proxy.close()
        proxy.close()

        assert _is_cut(client)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=SOON)
    assert "taskservice-proxy" not in {thread.name for thread in threading.enumerate()}


def _is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True
