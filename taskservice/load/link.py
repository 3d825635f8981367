"""Locust's end of its engine: greenlets that write and read. Imported under gevent."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import AsyncResult, Event

from taskservice.errors import ConfigurationError
from taskservice.load.errors import StackError
from taskservice.load.wire import Lines, pack

if TYPE_CHECKING:
    from taskservice.load.calls import Call

__all__ = ["EngineLink"]

CHUNK: Final = 1 << 16
OPEN_SECONDS: Final = 30.0
MARGIN_SECONDS: Final = 10.0
"""What looking for runs may take beyond the time that is waited for their ends."""


class EngineLink:
    """One engine; ``hear`` gets all that it tells about runs, in order, and ``["gone"]`` if it dies."""

    def __init__(self, config: dict[str, Any], hear: Callable[[list[Any]], object]) -> None:
        self._config = config
        self._hear = hear
        self._outbox: list[bytes] = []
        self._written = Event()
        self._opened: AsyncResult[Any] = AsyncResult()
        self._settled: AsyncResult[Any] = AsyncResult()
        self.alive = False

    def open(self) -> dict[str, Any]:
        """Start it and return what it said of itself; `StackError` if it cannot work."""
        self._end, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            argv = [sys.executable, "-m", "taskservice.load.engine", str(number)]
            # In our group: whoever ends us ends it, and a terminal's Ctrl-C is for us both.
            self._process = subprocess.Popen(argv, pass_fds=[number], stdin=subprocess.DEVNULL)
        self.alive = True
        self._greenlets = [gevent.spawn(self._write), gevent.spawn(self._read)]
        self._send(["open", self._config])
        with gevent.Timeout(OPEN_SECONDS, StackError("the load engine", "it did not get ready")):
            found: Any = self._opened.get()
        said: dict[str, Any] = found
        return said

    def go(self, number: int, call: Call) -> None:
        """Have a call sent."""
        self._send(["go", number, call.to_json()])

    def settle(self, seconds: float) -> dict[int, str]:
        """Wait up to ``seconds`` for all that is under way; return where the rest is, by number."""
        self._settled = AsyncResult()
        if not self.alive:
            return {}
        self._send(["settle", seconds])
        if not self._settled.wait(seconds + MARGIN_SECONDS):
            return {}
        found: Any = self._settled.get()
        return {int(number): end for number, end in found.items()}

    def close(self) -> None:
        """End it."""
        if not self.alive:
            return

        self.alive = False
        gevent.killall(self._greenlets)
        self._end.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(MARGIN_SECONDS)
        self._process.kill()

    def _send(self, message: list[Any]) -> None:
        self._outbox.append(pack(message))
        self._written.set()

    def _write(self) -> None:
        with suppress(OSError):
            while True:
                self._written.wait()
                self._written.clear()
                data, self._outbox = b"".join(self._outbox), []
                self._end.sendall(data)

    def _read(self) -> None:
        lines = Lines()
        with suppress(OSError):
            while chunk := self._end.recv(CHUNK):
                for message in lines.feed(chunk):
                    self._take(message)
        self.alive = False
        gone = StackError("the load engine", "its process ended")
        if not self._opened.ready():
            self._opened.set_exception(gone)
        self._settled.set({})
        self._hear(["gone"])

    def _take(self, message: list[Any]) -> None:
        match message:
            case ["ready", said]:
                self._opened.set(said)
            case ["mistaken", why]:
                self._opened.set_exception(ConfigurationError(why))
            case ["failed", why]:
                self._opened.set_exception(StackError("the load engine", why))
            case ["settled", found]:
                self._settled.set(found)
            case _:
                self._hear(message)
