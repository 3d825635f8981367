"""Which file descriptors of an event loop keep a world's clock still: those on which an answer is awaited."""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import socket
import stat
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["SILENCE", "Descriptors", "awaited"]

logger = logging.getLogger(__name__)

SILENCE = 5.0
"""Real seconds of silence after which a socket is taken for one that only listens for news."""


class Descriptors:
    """What one loop waits for outside of this process."""

    def __init__(self) -> None:
        self._silent: set[int] = set()

    def at_work(self, awaited: dict[int, bool]) -> set[int]:
        """Return whom time waits for of ``awaited`` (descriptor: whether something is to be written)."""
        self._silent &= awaited.keys()
        return {
            number
            for number, writing in awaited.items()
            if writing or (number not in self._silent and not _listens(number))
        }

    def spoke(self, number: int) -> None:
        """Note that something came."""
        self._silent.discard(number)

    def gave_up(self, numbers: set[int]) -> None:
        """Note that nothing came on them for ``SILENCE``: time goes on without those that are sockets."""
        sockets = {number for number in numbers if _is_socket(number)} - self._silent
        self._silent |= sockets
        for number in sorted(sockets):
            logger.warning("virtual time went on without socket %d, silent for %g s", number, SILENCE)


def awaited(keys: Mapping[Any, selectors.SelectorKey], *, own: Collection[int]) -> dict[int, bool]:
    """Return the descriptors on which somebody waits, and whether something is to be written there.

    ``keys`` are those of the selector of a loop of asyncio's, ``own`` is what wakes the loop itself.
    """
    return {
        key.fd: bool(key.events & selectors.EVENT_WRITE)
        for key in keys.values()
        if key.fd not in own and (key.events & selectors.EVENT_WRITE or _is_read(key.data[0]))
    }


def _is_read(handle: Any) -> bool:
    """Return whether somebody waits for what would come; a stream reads ahead, in case."""
    transport = getattr(getattr(handle, "_callback", None), "__self__", None)
    if type(transport).__name__.endswith("PidfdChildWatcher"):
        # A process's end: `has_children` knows of it.
        return False
    protocol = getattr(transport, "_protocol", None)
    if not isinstance(protocol, asyncio.StreamReaderProtocol):
        return handle is not None
    reader = getattr(protocol, "_stream_reader", None)
    return reader is None or reader._waiter is not None  # noqa: SLF001 - see the module


def _is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return True


def _listens(number: int) -> bool:
    """Return whether it waits for connections, which others make: that is no work."""
    try:
        # Not socket.socket, which tests replace to forbid sockets.
        found = socket.SocketType(fileno=number)
    except OSError:
        return False
    try:
        return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        found.detach()
