"""One simulated server: fakeredis's data, in virtual time, in an order that a seed decides.

Leans on ``FakeServer``: ``lock``, ``dbs``, the three maps of subscribers, ``config``; and on ``Database``:
``_dict``, ``_expiry_heap``, ``schedule_expiry``.
"""

from __future__ import annotations

import gc
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fakeredis import FakeServer
from fakeredis._core import Database
from fakeredis._helpers import compile_pattern

from pytest_taskservice.redis.mended import REDIS_VERSION, WaitingRoom
from pytest_taskservice.simulator.core.agenda import Weight
from pytest_taskservice.simulator.redis.keyspace import Announcements, announce_expired

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.redis.obstacles import Obstacles
    from pytest_taskservice.simulator.redis.queues import QueueLists

__all__ = ["Crowd", "Store"]

_LATER = 0.001
"""Redis looks at the clock in whole milliseconds: a key is gone when its instant is over."""


class Crowd:
    """Who listens to a channel, in the order they came, which fakeredis's own set does not keep."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[Any, None] = {}

    def add(self, member: Any) -> None:
        """Let somebody in."""
        self._members[member] = None

    def discard(self, member: Any) -> None:
        """Let somebody go, if he is there."""
        self._members.pop(member, None)

    def remove(self, member: Any) -> None:
        """Let somebody go."""
        del self._members[member]

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Any]:
        # Copied: a finalizer may leave the crowd while a message is handed round.
        return iter(tuple(self._members))

    def __len__(self) -> int:
        return len(self._members)


class Data(Database):
    """One numbered database; tells what expires, where somebody wants to know."""

    def __init__(self, store: Store, number: int) -> None:
        super().__init__(store.lock)
        self._store = store
        self._number = number

    def schedule_expiry(self, key: bytes, expireat: float | None) -> None:
        """Note when a key expires."""
        super().schedule_expiry(key, expireat)
        if expireat is not None and self._store.announces.expired:
            self._store.sweep_at(self, expireat)

    def watch_expiry(self) -> None:
        """See to it that what expires from now on is told."""
        for expireat, _ in self._expiry_heap:
            self._store.sweep_at(self, expireat)

    def sweep(self) -> None:
        """Remove what has expired, and tell."""
        self.time = self._store.simulation.now()
        gone = [key for key, item in self._dict.items() if self.expired(item)]
        for key in gone:
            del self._dict[key]
            announce_expired(self._store, self._number, key)


class Databases(dict[int, Data]):
    """Databases by number, made when first asked for."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def __missing__(self, number: int) -> Data:
        data = Data(self._store, number)
        data.time = self._store.simulation.now()
        # Connections are made outside of the lock.
        return self.setdefault(number, data)


class Store(FakeServer):
    """A server; its commands run one at a time, between :meth:`enter` and :meth:`leave`."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(version=REDIS_VERSION)
        self.simulation = simulation
        # The same thread may come again from a finalizer, in the middle of a command.
        self.lock: Any = threading.RLock()
        self.dbs: Any = Databases(self)
        self.subscribers: Any = defaultdict(Crowd)
        self.psubscribers: Any = defaultdict(Crowd)
        self.ssubscribers: Any = defaultdict(Crowd)
        self.room = WaitingRoom(self._wake)
        self.changed = False
        """Whether somebody waits for what a command may have brought."""
        self.announces = Announcements()
        self.slow = False
        """Whether every command must take the long way: it is restricted, or told of."""
        self.lists: QueueLists | None = None
        """The queues of the brokers that it is, too."""
        self.obstacles: Obstacles | None = None
        """What stands in the ways of its clients, if anything does."""
        self._owner = threading.get_ident()
        self._resume_collecting: list[bool] = []

    def enter(self) -> None:
        """Begin a command: no other thread is in here, and no finalizer of the garbage collector comes in."""
        self.lock.acquire()
        collects = gc.isenabled()
        self._resume_collecting.append(collects)
        if collects:
            gc.disable()
        if self.closed_sockets:
            self._forget_closed()

    def leave(self) -> None:
        """End a command."""
        if self._resume_collecting.pop():
            gc.enable()
        self.lock.release()

    def serve(self) -> None:
        """Give those who wait what has come in meanwhile."""
        self.changed = False
        self.room.serve()

    def set_time(self) -> None:
        """Let all data know what time it is."""
        now = self.simulation.now()
        for data in self.dbs.values():
            data.time = now

    def configure(self, settings: dict[bytes, bytes]) -> None:
        """Do CONFIG SET."""
        settings = {name.lower(): value for name, value in settings.items()}
        flags = settings.get(b"notify-keyspace-events")
        if flags is not None:
            self.announces = Announcements.read(flags)
            self.slow = self.slow or bool(self.announces)
            settings[b"notify-keyspace-events"] = self.announces.flags()
        self.config.update(settings)
        if self.announces.expired:
            for data in self.dbs.values():
                data.watch_expiry()

    def matching_config(self, patterns: Iterable[bytes]) -> dict[bytes, bytes]:
        """Do CONFIG GET."""
        known = {b"notify-keyspace-events": b"", b"maxmemory": b"0", b"databases": b"16"} | self.config
        matchers = [compile_pattern(pattern.lower()) for pattern in patterns]
        return {name: value for name, value in known.items() if any(one.match(name) for one in matchers)}

    def sweep_at(self, data: Data, instant: float) -> None:
        """Look for expired keys when ``instant``, on the wall clock, is over."""
        # The agenda is the owner's alone: what another thread sets to expire, expires untold.
        if threading.get_ident() == self._owner:
            seconds = instant - self.simulation.now() + _LATER
            self.simulation.after(seconds, self._sweep, data, weight=Weight.UPKEEP)

    def _sweep(self, data: Data) -> None:
        self.enter()
        try:
            data.sweep()
        finally:
            self.leave()

    def _wake(self) -> None:
        self.changed = True

    def _forget_closed(self) -> None:
        while self.closed_sockets:
            line = self.closed_sockets.pop()()
            if line is not None:
                line._cleanup(self)  # noqa: SLF001 - as FakeServer's own sockets do
