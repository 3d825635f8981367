"""The Redis protocol from the server's side: requests out of bytes, replies into bytes.

Replies come as fakeredis makes them, with its ``SimpleString`` and ``SimpleError`` for status and
error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fakeredis._helpers import SimpleError, SimpleString

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ProtocolError", "RequestParser", "encode_reply"]

MAX_INLINE = 1 << 16
MAX_WORDS = 1 << 20
MAX_BULK = 512 << 20


class ProtocolError(ValueError):
    """The client does not speak Redis."""


class RequestParser:
    """Collects bytes and gives complete requests, be they arrays or lines typed by a person."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        # Dropped once per arrival, not once per request: a deep pipeline would be copied again and
        # again.
        del self._data[: self._at]
        self._at = 0
        self._data += data

    def next_request(self) -> list[bytes] | None:
        """Return the words of the next complete request, or ``None`` until more arrives."""
        while (line := self._line(self._at)) is not None:
            text, end = line
            words = text.split() if text[:1] != b"*" else self._array(text, end)
            if words is None:
                return None
            if text[:1] != b"*":
                self._at = end
            if words:
                return words
        return None

    def _array(self, header: bytes, start: int) -> list[bytes] | None:
        words, at = [], start
        for _ in range(_number(header, MAX_WORDS, "invalid multibulk length")):
            line = self._line(at)
            if line is None:
                return None
            text, begin = line
            if text[:1] != b"$":
                raise ProtocolError(f"expected '$', got {text[:1].decode('ascii', 'replace')!r}")
            end = begin + _number(text, MAX_BULK, "invalid bulk length")
            if len(self._data) < end + 2:
                return None
            words.append(bytes(self._data[begin:end]))
            at = end + 2
        self._at = at
        return words

    def _line(self, start: int) -> tuple[bytes, int] | None:
        end = self._data.find(b"\n", start)
        if end < 0:
            if len(self._data) - start > MAX_INLINE:
                raise ProtocolError("too big inline request")
            return None
        return bytes(self._data[start:end]).rstrip(b"\r"), end + 1


def encode_reply(value: Any, *, protocol: int, push: bool = False) -> bytes:
    """Write ``value`` in RESP ``protocol`` 2 or 3; ``push`` marks a message, for RESP3 only."""
    if isinstance(value, dict):
        flat = [item for pair in value.items() for item in pair]
        mark, size = (b"%", len(value)) if protocol == 3 else (b"*", len(flat))
        return _aggregate(mark, size, flat, protocol)
    if isinstance(value, set | frozenset):
        return _aggregate(b"~" if protocol == 3 else b"*", len(value), value, protocol)
    if isinstance(value, list | tuple):
        mark = b">" if push and protocol == 3 else b"*"
        return _aggregate(mark, len(value), value, protocol)
    if isinstance(value, bool | int | float):
        return _number_reply(value, protocol)
    return _text_reply(value, protocol)


def _text_reply(value: Any, protocol: int) -> bytes:
    if value is None:
        return b"_\r\n" if protocol == 3 else b"$-1\r\n"
    if isinstance(value, SimpleString):
        return b"+%s\r\n" % value.value
    if isinstance(value, SimpleError):
        return b"-%s\r\n" % " ".join(value.value.splitlines()).encode()
    if isinstance(value, bytes | str):
        return _bulk(value if isinstance(value, bytes) else value.encode())
    raise TypeError(f"no reply can hold a {type(value).__name__}")


def _number_reply(value: float, protocol: int) -> bytes:
    if isinstance(value, bool):
        return (b"#t\r\n" if value else b"#f\r\n") if protocol == 3 else b":%d\r\n" % value
    if isinstance(value, int):
        return b":%d\r\n" % value
    text = f"{value:.17g}".encode()
    return b",%s\r\n" % text if protocol == 3 else _bulk(text)


def _aggregate(mark: bytes, size: int, items: Iterable[Any], protocol: int) -> bytes:
    parts = [encode_reply(item, protocol=protocol) for item in items]
    return b"%s%d\r\n" % (mark, size) + b"".join(parts)


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def _number(header: bytes, limit: int, complaint: str) -> int:
    try:
        number = int(header[1:])
    except ValueError:
        raise ProtocolError(complaint) from None
    if number > limit:
        raise ProtocolError(complaint)
    return max(number, 0)
