"""fakeredis as a server's command interpreter: every place we reach into it, and why.

We take ``FakeSocket``, which runs the commands of one connection, and put our own faces before it:
TCP in ``fake_tcp``, and redis-py's connections in a simulation. What is mended, as of 2.40.0:

1. ``FakeSocket._decode_result`` makes exceptions and bytes of a client library out of errors and
   status replies, which loses what they were. Here they stay as they are until they are delivered.
2. ``FakeSocket._blocking`` blocks its thread and never looks whether the client is still there, so
   the BRPOP of a killed worker eats one more message; and it wakes the waiting in no order. Here
   waiting is an entry in a :class:`WaitingRoom`: first come, first served, gone with its
   connection.
3. ``BLMOVE`` answers a missing list at once instead of waiting, and ``INFO`` and ``OBJECT`` do not
   exist. ``_name_to_func`` of our subclass adds them, so the clients of other tests stay as they
   are.
4. ``SETEX`` and ``PSETEX`` cut the instant of expiry down to whole seconds: PSETEX 500 is gone at once.
5. Without lupa nobody knows ``EVAL`` and its like. Here they say what they need.

:func:`check_seams` fails with a clear message once one of these places is gone.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import redis
from fakeredis._command_args_parsing import Timeout
from fakeredis._commands import COMMANDS_WITH_SUB, SUPPORTED_COMMANDS, Key, Signature
from fakeredis._core import CommandItem, Database
from fakeredis._helpers import NoResponse, SimpleError
from fakeredis._msgs import FLAG_NO_SCRIPT
from fakeredis._socket import FakeSocket

from pytest_taskservice.errors import RedisProviderError

if TYPE_CHECKING:
    from fakeredis import FakeServer

__all__ = [
    "ADDED",
    "HAS_LUA",
    "NO_LUA",
    "REDIS_VERSION",
    "MendedSocket",
    "WaitingRoom",
    "check_seams",
    "failure",
]

REDIS_VERSION = (7, 4)
SEAMS = {
    "_process_command": ["self", "fields"],
    "_decode_result": ["self", "result"],
    "_blocking": ["self", "timeout", "func", "shape"],
    "_name_to_func": ["self", "cmd_name"],
    "_take_unblock_reason": ["self"],
    "put_response": ["self", "msg"],
    "kill": ["self"],
}
ADDED: dict[str, tuple[str, tuple[Any, ...], tuple[Any, ...]]] = {
    "blmove": ("blmove_waiting", (bytes, bytes, bytes, bytes, Timeout), ()),
    "info": ("info", (), (bytes,)),
    "object": ("object_", (bytes, Key()), ()),
}
HAS_LUA = "eval" in SUPPORTED_COMMANDS
SCRIPTS = frozenset({"eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro", "function", "script"})
NO_LUA = (
    "fakeredis runs Lua scripts by the package lupa only, which is not installed: pip install lupa "
    "(where it has no wheel, as so far for Python 3.15, it needs a C compiler)"
)
ENCODINGS = {"list": b"listpack", "Hash": b"listpack", "ZSet": b"listpack", "XStream": b"stream"}
MAX_EMBEDDED = 44

Attempt = Callable[[bool], Any]
Shape = Callable[[Any], Any]


class WaitingRoom:
    """The blocked clients of one server, in the order they came."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake  # asks the server's thread for serve(); called from any thread
        self._waiting: dict[MendedSocket, Database] = {}
        self._dirty: set[Database] = set()
        self._watched: set[Database] = set()

    def enter(self, client: MendedSocket, database: Database) -> None:
        """Add a client whose request found nothing; the store's lock is held."""
        if database not in self._watched:
            self._watched.add(database)
            database.add_change_callback(partial(self._changed, database))
        self._waiting[client] = database

    def leave(self, client: MendedSocket) -> None:
        """Forget a client, served or gone."""
        self._waiting.pop(client, None)

    def serve(self) -> None:
        """Try the waiting again where keys have changed; serving one may change more."""
        served = 1
        while self._dirty and served:
            changed, self._dirty = self._dirty, set()
            clients = [client for client, database in self._waiting.items() if database in changed]
            served = sum(client.retry() for client in clients)

    def _changed(self, database: Database) -> None:
        if self._waiting:
            self._dirty.add(database)
            self._wake()


class MendedSocket(FakeSocket):
    """The commands of one connection, with the faults listed above mended.

    A subclass says where answers go: ``put_response``, :meth:`answer` and :meth:`alarm`.
    """

    def __init__(self, store: FakeServer, room: WaitingRoom, info: dict[str, Any]) -> None:
        self._room = room
        self._retry: tuple[Attempt, Shape, Callable[[], None]] | None = None
        super().__init__(store, 0, client_class=redis.Redis, client_info=info)

    @property
    def waiting(self) -> bool:
        """Whether a blocking request is still unanswered."""
        return self._retry is not None

    def answer(self, reply: Any) -> None:
        """Deliver the reply of a request that blocked, and go on with those behind it."""
        raise AssertionError("a subclass delivers")

    def alarm(self, seconds: float) -> Callable[[], None]:
        """Have ``retry(expired=True)`` called in ``seconds``; the returned function prevents it."""
        raise AssertionError("a subclass has a clock")

    def retry(self, *, expired: bool = False) -> bool:
        """Try the blocked request again; whether it is answered now."""
        if self._retry is None:
            return False

        attempt, shape, _ = self._retry
        with self._server.lock:
            unblocked = self._unblock_reason is not None
            result = self._outcome(attempt)
            if result is None and not expired and not unblocked:
                return False
            self.stop_waiting()
            reply = result if isinstance(result, SimpleError) else shape(result)
        self.answer(reply)
        return True

    def stop_waiting(self) -> None:
        """Give up the blocked request, if there is one."""
        if self._retry is not None:
            self._retry[2]()
            self._retry, self._blocked = None, False
            self._client_info["flags"] = "N"
            self._room.leave(self)

    def blmove_waiting(
        self, source: bytes, destination: bytes, take: bytes, put: bytes, timeout: float
    ) -> Any:
        """BLMOVE that waits for a list that does not exist yet."""
        ends = {b"left": 0, b"right": -1}
        if take.lower() not in ends or put.lower() not in ends:
            raise SimpleError("ERR syntax error")

        move = partial(self._move, source, destination, ends[take.lower()], put.lower() == b"left")
        return self._blocking(timeout, move)

    def info(self, *_sections: bytes) -> bytes:
        """INFO: what clients ask for, with the sections always complete."""
        text = ".".join(map(str, (*REDIS_VERSION, 0)))
        lines = [
            "# Server",
            f"redis_version:{text}",
            "server_name:fakeredis",
            f"fakeredis_version:{version('fakeredis')}",
            "redis_mode:standalone",
            f"process_id:{os.getpid()}",
            "# Clients",
            f"connected_clients:{len(self._server.sockets)}",
            "# Memory",
            "used_memory:0",
            "maxmemory:0",
            "# Replication",
            "role:master",
            "connected_slaves:0",
            "# Keyspace",
        ]
        sizes = {number: len(database) for number, database in sorted(self._server.dbs.items())}
        lines += [f"db{n}:keys={size},expires=0,avg_ttl=0" for n, size in sizes.items() if size]
        return "\r\n".join([*lines, ""]).encode()

    def object_(self, question: bytes, key: CommandItem) -> Any:
        """OBJECT: plausible answers, as there is no memory layout to tell about."""
        asked = question.lower()
        if asked not in {b"encoding", b"refcount", b"idletime"}:
            raise SimpleError(f"ERR unknown subcommand '{question.decode('utf-8', 'replace')}'")
        if not key:
            return None
        if asked != b"encoding":
            return 1 if asked == b"refcount" else 0
        if not isinstance(key.value, bytes):
            return ENCODINGS.get(type(key.value).__name__, b"hashtable")
        if key.value.lstrip(b"-").isdigit():
            return b"int"
        return b"embstr" if len(key.value) <= MAX_EMBEDDED else b"raw"

    def setex(self, key: CommandItem, seconds: int, value: bytes) -> Any:
        """SETEX, expiring no sooner than it should."""
        reply = super().setex(key, seconds, value)
        key.expireat = self._db.time + seconds
        return reply

    def psetex(self, key: CommandItem, ms: int, value: bytes) -> Any:
        """PSETEX, expiring no sooner than it should."""
        reply = super().psetex(key, ms, value)
        key.expireat = self._db.time + ms / 1000
        return reply

    def _name_to_func(self, cmd_name: str) -> tuple[Callable[..., Any] | None, Signature]:
        if cmd_name in ADDED:
            method, fixed, repeat = ADDED[cmd_name]
            flags = FLAG_NO_SCRIPT if cmd_name == "blmove" else ""
            return getattr(self, method), Signature(cmd_name, method, fixed, repeat, flags=flags)
        if not HAS_LUA and cmd_name in SCRIPTS:
            raise SimpleError(f"ERR {NO_LUA}")
        found: tuple[Callable[..., Any] | None, Signature] = super()._name_to_func(cmd_name)
        return found

    def _decode_result(self, result: Any) -> Any:
        return result

    def _blocking(self, timeout: float | None, func: Attempt, shape: Shape | None = None) -> Any:
        shape = shape or _unshaped
        result = func(True)
        if result is not None or self._in_transaction:
            return shape(result)

        cancel = self.alarm(timeout) if timeout else _nothing
        self._retry, self._blocked = (func, shape, cancel), True
        self._client_info["flags"] = "b"
        self._room.enter(self, self._db)
        return NoResponse()

    def _outcome(self, attempt: Attempt) -> Any:
        try:
            if self._unblock_reason is not None:
                return self._take_unblock_reason()
            return attempt(False)
        except SimpleError as error:
            return error
        except Exception as error:  # noqa: BLE001 - another client's request runs this, and must not fail
            return failure(error)

    def _move(self, source: bytes, destination: bytes, take: int, front: bool, first: bool) -> Any:
        items = CommandItem(source, self._db, item=self._db.get(source), default=[])
        if not isinstance(items.value, list):
            if first:
                raise SimpleError("WRONGTYPE Operation against a key holding the wrong kind of value")
            return None
        if not items.value:
            return None

        target = items
        if destination != source:
            target = CommandItem(destination, self._db, item=self._db.get(destination), default=[])
        if not isinstance(target.value, list):
            raise SimpleError("WRONGTYPE Operation against a key holding the wrong kind of value")
        value = items.value.pop(take)
        target.value.insert(0 if front else len(target.value), value)
        for changed in {id(items): items, id(target): target}.values():
            changed.updated()
            changed.writeback()
        return value


def check_seams() -> None:
    """Raise :class:`RedisProviderError` if a place that this module reaches into is gone."""
    broken = [f"FakeSocket.{name}" for name in SEAMS if _parameters(name) != SEAMS[name]]
    broken += [
        f"Database.{name}" for name in ("add_change_callback", "notify_watch") if not hasattr(Database, name)
    ]
    if "object" in COMMANDS_WITH_SUB:
        broken.append("OBJECT")
    if broken:
        raise RedisProviderError(
            f"fakeredis {version('fakeredis')} has changed at {', '.join(broken)}; "
            "install fakeredis 2.40.0 or use --taskservice-redis=embedded"
        )


def failure(error: Exception) -> SimpleError:
    """Return what a client hears of a fault inside fakeredis."""
    return SimpleError(f"ERR fakeredis failed: {error!r}")


def _parameters(name: str) -> list[str]:
    method = getattr(FakeSocket, name, None)
    return list(inspect.signature(method).parameters) if method is not None else []


def _unshaped(value: Any) -> Any:
    return value


def _nothing() -> None:
    pass
