"""Between a Locust process and its engine: JSON, a message a line, many lines a write."""

from __future__ import annotations

from json import JSONDecoder, JSONEncoder
from typing import Any

__all__ = ["Lines", "pack"]

_encode = JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = JSONDecoder().decode


def pack(message: list[Any]) -> bytes:
    """Return a message as a line."""
    return _encode(message).encode() + b"\n"


class Lines:
    """Messages out of chunks that end anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[list[Any]]:
        """Return the messages that ``chunk`` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [_decode(line.decode()) for line in lines]
