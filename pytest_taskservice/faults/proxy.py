"""A TCP proxy that treats connections badly on purpose.

It has doors: ports of the loopback that all lead to one server. Each of its clients is given a door of its
own, so that one of them can be cut off from the server and the others not. Everything runs on an event loop
in one thread; the methods are for any other thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pytest_taskservice.errors import HarnessTimeoutError
from taskservice.programs import LOOPBACK

__all__ = ["Proxy", "Toxic"]

_CHUNK = 1 << 16
_QUEUED = 64
_CALL = 5.0
# Zero seconds to linger: what is not sent is dropped, and the peer is told so by RST.
_RESET = struct.pack("ii", 1, 0)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Toxic:
    """How connections are treated, through every door that ``doors``, a pattern, means.

    ``latency`` keeps each answer back for ``by`` seconds; ``bandwidth`` lets through ``rate`` bytes a second
    each way; ``slicer`` cuts what it carries into pieces of ``size`` bytes, ``by`` seconds apart; ``timeout``
    accepts and is silent, what it holds back goes on once it is over; ``down`` cuts, and refuses;
    ``reset_peer`` cuts by RST, new connections too.
    """

    kind: str
    doors: str = "*"
    by: float = 0.0
    rate: int = 0
    size: int = 0


@dataclass(kw_only=True, eq=False, slots=True)
class _Door:
    """One port, what happens at it, and who has come in."""

    name: str
    port: int = 0
    listener: asyncio.Server | None = None
    toxics: list[Toxic] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    carried: int = 0
    guests: set[_Guest] = field(default_factory=set)

    def told(self, kind: str) -> list[Toxic]:
        return [toxic for toxic in self.toxics if toxic.kind == kind]


@dataclass(kw_only=True, eq=False, slots=True)
class _Guest:
    """A client and its connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None

    def cut(self, *, reset: bool) -> None:
        for writer in filter(None, (self.client, self.server)):
            if reset and writer is self.client:
                sock: socket.socket = writer.get_extra_info("socket")
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Doors to the server at ``host`` and ``port``, from :meth:`door` until :meth:`close`."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._doors: dict[str, _Door] = {}
        self._toxics: list[Toxic] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="taskservice-proxy", daemon=True)
        self._thread.start()

    def door(self, name: str) -> int:
        """Return the port of the door ``name``, opened at the first call."""
        return self._call(self._open(name), f"opening the door {name!r}")

    def add(self, toxic: Toxic) -> None:
        """Treat connections so from now on, those that there are and new ones."""
        self._call(self._change(toxic, [*self._toxics, toxic]), f"the fault {toxic.kind!r}")

    def remove(self, toxic: Toxic) -> None:
        """Do it no longer; may be called twice."""
        left = [other for other in self._toxics if other is not toxic]
        self._call(self._change(None, left), f"the end of the fault {toxic.kind!r}")

    def clear(self) -> None:
        """Treat all connections well."""
        self._call(self._change(None, []), "the end of all faults")

    def reset(self, doors: str = "*") -> int:
        """Cut the connections that there are, by RST, and return how many there were."""
        return self._call(self._reset(doors), "resetting connections")

    def carrying(self) -> int:
        """Return how many pieces are on their way, held back or not."""
        return sum(door.carried for door in tuple(self._doors.values()))

    def close(self) -> None:
        """Close all doors, cut all connections and end the thread; may be called twice."""
        if not self._thread.is_alive():
            return
        self._call(self._shut(), "closing the proxy")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _call(self, action: Coroutine[Any, Any, T], what: str) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(action, self._loop).result(_CALL)
        except TimeoutError:
            raise HarnessTimeoutError(f"the proxy did not answer within {_CALL:g} s: {what}") from None

    # Below, all runs on the loop.

    async def _open(self, name: str) -> int:
        if name not in self._doors:
            door = self._doors[name] = _Door(name=name)
            await self._listen(door)
            await self._arrange(door, self._toxics)
        return self._doors[name].port

    async def _listen(self, door: _Door) -> None:
        async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Streams ask a connection's task for its error, which for one that is cancelled is another.
            with suppress(asyncio.CancelledError):
                await self._come(door, reader, writer)

        # The same port after an outage: its clients know no other.
        door.listener = await asyncio.start_server(come, LOOPBACK, door.port, reuse_address=True)
        door.port = door.listener.sockets[0].getsockname()[1]

    async def _change(self, added: Toxic | None, toxics: list[Toxic]) -> None:
        self._toxics = toxics
        for door in self._doors.values():
            await self._arrange(door, toxics)
            if added is not None and added in door.toxics and added.kind in ("down", "reset_peer"):
                _cut(door, reset=added.kind == "reset_peer")

    async def _arrange(self, door: _Door, toxics: list[Toxic]) -> None:
        door.toxics = [toxic for toxic in toxics if fnmatchcase(door.name, toxic.doors)]
        if door.told("timeout"):
            door.open.clear()
        else:
            door.open.set()
        if door.told("down"):
            if door.listener is not None:
                door.listener.close()
                door.listener = None
        elif door.listener is None:
            await self._listen(door)

    async def _reset(self, doors: str) -> int:
        found = [door for door in self._doors.values() if fnmatchcase(door.name, doors)]
        return sum(_cut(door, reset=True) for door in found)

    async def _shut(self) -> None:
        for door in self._doors.values():
            if door.listener is not None:
                door.listener.close()
            _cut(door, reset=False)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The transports close themselves a turn later.
        await asyncio.sleep(0)

    async def _come(self, door: _Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends."""
        guest = _Guest(client=writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        door.guests.add(guest)
        try:
            if door.told("down") or door.told("reset_peer"):
                guest.cut(reset=True)
                return
            answers, guest.server = await asyncio.open_connection(*self._upstream)
            ways = [
                asyncio.ensure_future(_carry(door, reader, guest.server, back=False)),
                asyncio.ensure_future(_carry(door, answers, writer, back=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            # A server that is not there cannot be shown as refusing: the client is in already.
            guest.cut(reset=True)
        finally:
            for each in filter(None, (guest.client, guest.server)):
                each.close()
            door.guests.discard(guest)
            self._tasks.discard(task)


def _cut(door: _Door, *, reset: bool) -> int:
    guests = list(door.guests)
    for guest in guests:
        guest.cut(reset=reset)
    return len(guests)


async def _carry(
    door: _Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool
) -> None:
    """Carry bytes one way until its source ends; what is under way by then still arrives."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)
    loop = asyncio.get_running_loop()

    async def deliver() -> None:
        while True:
            due, chunk = await queue.get()
            try:
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                await door.open.wait()
                if not chunk:
                    return
                await _write(door, writer, chunk)
            finally:
                door.carried -= bool(chunk)

    delivery = asyncio.ensure_future(deliver())
    try:
        chunk = b"."
        while chunk and not delivery.done():
            try:
                chunk = await reader.read(_CHUNK)
            except OSError:
                chunk = b""
            late = sum(toxic.by for toxic in door.told("latency")) if back else 0.0
            door.carried += bool(chunk)
            await queue.put((loop.time() + late, chunk))
        await delivery
    finally:
        delivery.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await delivery
        # Nobody waits for what is left.
        door.carried -= sum(bool(chunk) for _, chunk in _drained(queue))


def _drained(queue: asyncio.Queue[T]) -> list[T]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def _write(door: _Door, writer: asyncio.StreamWriter, chunk: bytes) -> None:
    slicers, narrow = door.told("slicer"), door.told("bandwidth")
    size = min((toxic.size for toxic in slicers), default=len(chunk))
    if narrow:
        # Small enough that nobody waits for long and is then given much at once.
        size = min(size, max(1, min(toxic.rate for toxic in narrow) // 20))
    for start in range(0, len(chunk), size):
        piece = chunk[start : start + size]
        writer.write(piece)
        await writer.drain()
        pause = sum(toxic.by for toxic in slicers)
        if narrow:
            pause += len(piece) / min(toxic.rate for toxic in narrow)
        if pause or slicers:
            await asyncio.sleep(pause)
