"""The few bytes of the Redis protocol that starting a server needs.

Importing ``redis`` takes 150 ms, twenty times what a server takes to start; so readiness, version
and flushing of our own servers go over a plain socket.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["call", "server_info", "version_text", "wait_ready"]

POLL_SECONDS = 0.001


def call(host: str, port: int, *words: str, timeout: float) -> bytes:
    """Send one command; return the text of its reply.

    Raises ``OSError``: ``ConnectionError`` for an error reply and for anything that is not a Redis.
    """
    request = b"*%d\r\n" % len(words)
    for word in words:
        data = word.encode()
        request += b"$%d\r\n%s\r\n" % (len(data), data)

    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return _read_reply(stream)


def server_info(host: str, port: int, *, timeout: float) -> dict[str, str]:
    """Return the ``INFO server`` section of a server that also answered PING."""
    if (pong := call(host, port, "PING", timeout=timeout)) != b"PONG":
        raise ConnectionError(f"PING was answered with {pong[:80]!r}")

    text = call(host, port, "INFO", "server", timeout=timeout).decode("utf-8", "replace")
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {key: value for key, _, value in pairs if key}


def wait_ready(host: str, port: int, *, timeout: float) -> dict[str, str]:
    """Return ``server_info`` once the server gives it; after ``timeout`` raise the last error."""
    deadline = time.perf_counter() + timeout
    while True:
        left = deadline - time.perf_counter()
        try:
            return server_info(host, port, timeout=max(left, POLL_SECONDS))
        except OSError:
            if left <= 0:
                raise
        time.sleep(POLL_SECONDS)


def version_text(info: Mapping[str, object]) -> str:
    """Read ``Valkey 9.1.2`` or ``Redis 7.0.15`` out of an ``INFO server`` section."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '(version hidden)')}"


def _read_reply(stream: BinaryIO) -> bytes:
    line = stream.readline(1 << 16)
    kind, text = line[:1], line[1:].rstrip(b"\r\n")
    if kind in {b"+", b":"} and line.endswith(b"\n"):
        return text
    if kind == b"$" and text.isdigit():
        return stream.read(int(text))
    if kind == b"-":
        raise ConnectionError(text.decode("utf-8", "replace"))
    raise ConnectionError(f"not a reply of a Redis: {line[:80]!r}")
