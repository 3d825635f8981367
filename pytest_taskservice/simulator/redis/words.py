"""Requests and replies between redis-py and a simulated server, without a byte of the protocol.

A request is the list of its words, as bytes; a packed request is a list of such lists, which only a
connection of the same simulation understands. Bytes that somebody has packed himself are read as a server
would.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fakeredis._helpers import SimpleError, SimpleString

from pytest_taskservice.redis.resp import RequestParser

__all__ = ["Packed", "packed", "requests_of", "told", "words_of"]

_PLAIN = frozenset((bytes, int, float, type(None), bool))


class Packed(list[list[bytes]]):
    """Requests as words; what ``pack_command`` and ``pack_commands`` return while a simulation is open."""


def words_of(encoder: Any, arguments: tuple[Any, ...]) -> list[bytes]:
    """Return the words of one request, encoded as redis-py encodes them."""
    encode = encoder.encode
    words = [
        word if type(word) is bytes else b"%d" % word if type(word) is int else bytes(encode(word))
        for word in arguments
    ]
    # "CLIENT SETNAME" is one argument to redis-py and two words to a server.
    return words if b" " not in words[0] else words[0].split() + words[1:]


def packed(encoder: Any, commands: Iterable[tuple[Any, ...]]) -> Packed:
    """Return several requests."""
    return Packed([words_of(encoder, command) for command in commands])


def requests_of(command: Any) -> list[list[bytes]]:
    """Return the requests in what was handed to ``send_packed_command``."""
    if type(command) is Packed:
        return command
    parser = RequestParser()
    chunks = [command] if isinstance(command, bytes | str) else list(command)
    parser.feed(b"".join(chunk.encode() if isinstance(chunk, str) else bytes(chunk) for chunk in chunks))
    requests = []
    while (words := parser.next_request()) is not None:
        requests.append(words)
    return requests


def told(reply: Any, encoder: Any, parser: Any) -> Any:
    """Return a reply as redis-py's parsers do: decoded if ``encoder`` is given, errors as exceptions."""
    kind = type(reply)
    if kind is SimpleString or kind is str:
        reply = reply.encode() if kind is str else reply.value
        kind = bytes
    if kind in _PLAIN:
        return encoder.decode(reply) if kind is bytes and encoder is not None else reply
    if kind is SimpleError:
        return parser.parse_error(reply.value)
    if isinstance(reply, dict):
        return {told(key, encoder, parser): told(value, encoder, parser) for key, value in reply.items()}
    return [told(item, encoder, parser) for item in reply]
