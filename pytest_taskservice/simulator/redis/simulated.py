"""Every Redis that a client of redis-py can reach, simulated: which server, when, and for whom.

    redis = SimulatedRedis(simulation)
    redis.install(patches)      # every connection, whenever it was made, leads to a store in this process
    ...
    redis.close()               # connections are as they were, and the stores are gone

Servers are told apart by host and port, or by the path of a Unix socket; all names of the own machine mean
the same.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.simulator.redis import async_clients, clients, sync_clients
from pytest_taskservice.simulator.redis.clients import Clients
from pytest_taskservice.simulator.redis.line import Line
from pytest_taskservice.simulator.redis.obstacles import Obstacles, caller
from pytest_taskservice.simulator.redis.quick import check_seams
from pytest_taskservice.simulator.redis.sockets import SocketGuard
from pytest_taskservice.simulator.redis.store import Store

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.redis.obstacles import Way
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["ROUND_TRIP", "SimulatedRedis"]

ROUND_TRIP = (0.0001, 0.0005)
"""Virtual seconds between which a request and its reply take, however many commands it holds."""
_HERE = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "ip6-localhost"})  # noqa: S104 - an alias
_MOMENT = 1e-9

# Each new server asks which of all commands its default user may give.
_rules: Any = import_module("fakeredis.model._acl")
_OF_CATEGORY = "get_commands_by_category"

Address = tuple[str, int]


class SimulatedRedis:
    """The Redis servers of one simulation; belongs to the thread that made it.

    ``allow_sockets`` lets real connections be made: all of them, or those to ``"host"`` or ``"host:port"``.
    """

    def __init__(self, simulation: Simulation, *, allow_sockets: bool | Sequence[str] = False) -> None:
        self.simulation = simulation
        self.closed = False
        self.was_cut = False
        """Whether a fault has broken any connection."""
        self.stores: dict[Address, Store] = {}
        self.guard = SocketGuard(allow_sockets)
        self._owner = threading.get_ident()
        # Whatever they do, they did it before: no loop of the simulation waits for them.
        self._strangers = WeakSet(threading.enumerate())
        self._collecting: set[int] = set()
        self._sync = Clients(self, "sync")
        self._asyncio = Clients(self, "asyncio")
        self._way_of: Callable[[str], Way] | None = None
        self._obstructed: frozenset[Address] = frozenset()
        self._cuttable: WeakValueDictionary[int, Line] = WeakValueDictionary()
        self._numbers = count()

    def has_threads(self) -> bool:
        """Return whether threads have begun since the simulation opened."""
        return any(thread not in self._strangers for thread in threading.enumerate())

    def install(self, patches: Patches) -> None:
        """Take all clients over, sync and asyncio, until ``patches`` are undone."""
        _check_once()
        sync_clients.install(self._sync, patches)
        async_clients.install(self._asyncio, patches)
        self.guard.install(patches)
        if hasattr(_rules, _OF_CATEGORY):
            patches.set(_rules, _OF_CATEGORY, _once(getattr(_rules, _OF_CATEGORY)))
        gc.callbacks.append(self._note_collection)

    def close(self) -> None:
        """Give every connection back what it had before; they connect again when they are used."""
        if not self.closed:
            self.closed = True
            if self._note_collection in gc.callbacks:
                gc.callbacks.remove(self._note_collection)
            self._sync.give_back()
            self._asyncio.give_back()
            self.stores.clear()

    def store(self, host: str, port: int = 0) -> Store:
        """Return the server at an address, or at a Unix socket's path, which has no port."""
        address = _plain(host, port)
        found = self.stores.get(address)
        if found is None:
            # Threads may be the first to come here at once.
            found = self.stores.setdefault(address, Store(self.simulation))
            if address in self._obstructed and self._way_of is not None:
                found.obstacles = Obstacles(self, self._way_of)
        return found

    @property
    def obstructed(self) -> bool:
        """Whether anything is in the way to any server."""
        return self._way_of is not None

    def answers(self, server: Address) -> bool:
        """Return whether a server would answer the caller now."""
        obstacles = self.store(*server).obstacles
        return obstacles is None or not obstacles.mute()

    def look_at(self, server: Address, database: int, key: bytes) -> bytes | None:
        """Return the string at a key, at once and past all that is in the way."""
        line = Line(self.store(*server), database=database, protocol=2, info={"db": database})
        found: bytes | None = line.ask([b"GET", key])
        return found

    def obstruct(self, servers: Iterable[Address], way_of: Callable[[str], Way] | None) -> None:
        """Let the ways of clients to ``servers``, and to no other, be as ``way_of`` says; ``None``: free."""
        self._way_of = way_of
        self._obstructed = frozenset(_plain(*server) for server in servers)
        for address, store in list(self.stores.items()):
            before = store.obstacles
            there = way_of is not None and address in self._obstructed
            store.obstacles = Obstacles(self, way_of) if there and way_of is not None else None
            if before is not None:
                before.follow(store.obstacles)

    def cut(self, servers: Iterable[Address], concerns: Callable[[str], bool]) -> None:
        """Break the open connections to ``servers`` of those whom it concerns."""
        stores = [found for server in servers if (found := self.stores.get(_plain(*server)))]
        for line in list(self._cuttable.values()):
            if not line.ended and concerns(line.client) and any(line.leads_to(store) for store in stores):
                self.was_cut = True
                line.kill()

    def may_break(self, line: Line) -> Line:
        """Note that faults may cut this connection."""
        self._cuttable[next(self._numbers)] = line
        line.client = caller()
        return line

    def may_wait(self) -> bool:
        """Return whether time may pass: never inside the garbage collector, whose work cannot be parked."""
        return not self._collecting or threading.get_ident() not in self._collecting

    def owned(self) -> bool:
        """Return whether the caller is on the simulation's own thread."""
        return threading.get_ident() == self._owner

    def latency(self) -> float:
        """Draw how long a round trip takes, in virtual seconds."""
        return self.simulation.random.between("redis", ROUND_TRIP)

    def travel(self) -> None:
        """Let a round trip's time pass, and others come in between; a thread of its own takes none."""
        if self.closed or threading.get_ident() != self._owner:
            return
        if not self._collecting or self.may_wait():
            self.simulation.spend(self.simulation.random.between("redis", ROUND_TRIP))

    def spend(self, seconds: float) -> None:
        """Let so much more time pass, where it may."""
        if seconds and not self.closed and self.owned() and self.may_wait():
            self.simulation.spend(seconds)

    def ask(self, question: object) -> None:
        """Let time pass for whoever does nothing but ask the same, again and again."""
        if not self.closed:
            self.spend(self.simulation.ask(question))

    def wait(self, line: Line, timeout: float | None) -> bool:
        """Wait until there is something to read, for ``timeout`` virtual seconds; return whether there is."""
        simulation = self.simulation
        end = None if timeout is None else simulation.monotonic() + timeout
        while not line.ready():
            if not self.may_wait():
                raise SimulationError(f"a finalizer waited for {line.asked}: what it waits for cannot come")
            ends = [instant for instant in (end, line.deadline) if instant is not None]
            left = max(0.0, min(ends) - simulation.monotonic()) if ends else None
            if simulation.wait(line.ready, timeout=left, what=f"Redis to answer {line.asked}"):
                break
            now = simulation.monotonic() + _MOMENT
            if line.deadline is not None and now >= line.deadline:
                line.end_wait()
            elif end is not None and now >= end:
                return False
        return True

    def _note_collection(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting.add(threading.get_ident())
        else:
            self._collecting.discard(threading.get_ident())


@cache
def _once(original: Callable[[bytes], list[bytes]]) -> Callable[[bytes], list[bytes]]:
    return cache(original)


_checked = False


def _plain(host: str, port: int) -> Address:
    if not port:
        return host, 0
    return ("localhost" if host.lower() in _HERE else host.lower()), port


def _check_once() -> None:
    global _checked  # noqa: PLW0603 - an installed version does not change while we run
    if not _checked:
        check_seams()
        clients.check_seams()
        _checked = True
