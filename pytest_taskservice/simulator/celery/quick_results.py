"""The few Redis commands of Celery's result backend, without redis-py's way to them.

``RedisBackend`` stays as it is, and so does all that it stores and publishes: the simulated server runs each
command. Only the client that it is handed is another, for ``GET``, ``MGET``, ``DEL``, ``SET``, for ``SETEX``,
``SET``, ``ZRANGE`` and ``PUBLISH`` in a transaction, for following channels and for the scripts of chords.
For all else, and as long as anything is in the way to the server, it hands out redis-py's own. The task
service's backend is handed the same.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from fakeredis._helpers import SimpleError
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 - redis-py's own is meant

from pytest_taskservice.simulator.celery.quick_lines import QuickScriptLine, ScriptLines
from pytest_taskservice.simulator.redis.clients import CLOSED
from pytest_taskservice.simulator.redis.line import Line
from pytest_taskservice.simulator.redis.quick import SLOW
from pytest_taskservice.simulator.redis.scripts import known_script

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.simulator.redis import SimulatedRedis
    from pytest_taskservice.simulator.redis.scripts import KnownScript
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["install_quick_results"]

_backends: Any = import_module("celery.backends.redis")
_storing: Any = import_module("taskservice.backends.storing")

# What says where the server is and how long to wait for it; anything else may change what replies look like.
_PLAIN = frozenset(
    {
        "client_name", "credential_provider", "db", "driver_info", "health_check_interval", "host",
        "lib_name", "lib_version", "max_connections", "password", "port", "retry_on_timeout",
        "socket_connect_timeout", "socket_keepalive", "socket_timeout", "username",
    }
)  # fmt: skip
_MULTI = [b"MULTI"]
_EXEC = [b"EXEC"]
_CONFIRMATIONS = (b"subscribe", b"unsubscribe")
_OF_RESULTS = {"ignore_subscribe_messages": True}


def install_quick_results(patches: Patches, home: SimulatedRedis) -> None:
    """Hand ``RedisBackend`` other clients as long as ``patches`` last; kinds made from it keep theirs."""
    original = _backends.RedisBackend._create_client  # noqa: SLF001 - listed in seams
    quick = {_backends.RedisBackend, _storing.OneTripRedisBackend}

    def create(backend: Any, **params: Any) -> Any:
        if type(backend) not in quick or "host" not in params or params.keys() - _PLAIN:
            return original(backend, **params)
        return QuickClient(home, lambda: original(backend, **params), params)

    patches.set(_backends.RedisBackend, "_create_client", create)
    patches.set(_storing, "ScriptLine", partial(_script_line, _storing.ScriptLine))


class QuickClient:
    """A client of the result backend.

    ``make`` makes redis-py's own, of the same ``connection``, when somebody asks for more than this one has.
    """

    def __init__(self, home: SimulatedRedis, make: Callable[[], Any], connection: dict[str, Any]) -> None:
        self._home = home
        self._make = make
        self._plain: Any = None
        self._store = home.store(str(connection["host"]), int(connection.get("port") or 0))
        self._database = int(connection.get("db") or 0)
        self._line = self.open_line()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def open_line(self) -> Line:
        """Connect once more."""
        return Line(self._store, database=self._database, protocol=2, info={"db": self._database})

    @property
    def hindered(self) -> bool:
        """Whether something is in the way to the server: redis-py knows what to do then."""
        return self._store.obstacles is not None

    def get(self, key: Any) -> Any:
        """GET."""
        if self.hindered:
            return self.plain.get(key)
        found = self._ask([b"GET", _bytes(key)])
        # Whoever polls without a pause: time passes for him too.
        self._home.ask((key, found))
        return found

    def mget(self, keys: Any, *more: Any) -> Any:
        """MGET."""
        if isinstance(keys, (str, bytes)):
            keys = [keys]
        if isinstance(keys, set):
            # What a result consumer follows: no seed knows the order of a set.
            keys = sorted(keys)
        if self.hindered:
            return self.plain.mget(keys, *more)
        wanted = [_bytes(key) for key in (*keys, *more)]
        return self._ask([b"MGET", *wanted]) if wanted else []

    def delete(self, *keys: Any) -> Any:
        """DEL."""
        if self.hindered:
            return self.plain.delete(*keys)
        return self._ask([b"DEL", *map(_bytes, keys)])

    def set(self, key: Any, value: Any, ex: Any = None, **options: Any) -> Any:
        """SET."""
        if options or (ex is not None and type(ex) is not int) or self.hindered:
            return self.plain.set(key, value, ex=ex, **options)
        seconds = [] if ex is None else [b"EX", b"%d" % ex]
        return self._ask([b"SET", _bytes(key), _bytes(value), *seconds]) is not None

    def eval(self, script: Any, numkeys: int, *words: Any) -> Any:
        """EVAL."""
        known = None if self.watched else known_script(script)
        if known is None:
            return self.plain.eval(script, numkeys, *words)
        found = self.run(known, list(map(_bytes, words[:numkeys])), list(map(_bytes, words[numkeys:])))
        return self.plain.eval(script, numkeys, *words) if found is SLOW else found

    def register_script(self, script: Any) -> Any:
        """Return a script that can be called: Celery's own run without an interpreter."""
        known = known_script(script)
        return self.plain.register_script(script) if known is None else QuickScript(self, known, script)

    def run(self, script: KnownScript, keys: list[bytes], arguments: list[bytes]) -> Any:
        """Run a known script in one round trip; ``SLOW`` leaves it to the server."""
        home, line = self._home, self._line
        if home.closed or line.ended:
            return None
        home.travel()
        try:
            return line.run(script, keys, arguments)
        except SimpleError as error:
            raise ResponseError(error.value) from error

    @property
    def watched(self) -> bool:
        """Whether somebody looks at each command that the server runs, or not all of them come through."""
        return self._line.watched or self.hindered

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """Return a transaction."""
        if transaction and not self.hindered:
            return QuickPipeline(self)
        return self.plain.pipeline(transaction, shard_hint)

    def pubsub(self, **options: Any) -> Any:
        """Return something that follows channels; who wants to hear that he does gets redis-py's own."""
        if options != _OF_RESULTS or self.hindered or self._home.was_cut:
            # A connection that may break is one of redis-py's.
            return self.plain.pubsub(**options)
        return QuickPubSub(self)

    def ask_many(self, requests: list[list[bytes]]) -> list[Any]:
        """Run requests in one round trip."""
        line, home = self._line, self._home
        if home.closed or line.ended:
            # The simulation is over, but somebody still holds its results.
            return [None] * len(requests)
        home.travel()
        line.send(requests)
        replies = list(line.inbox)
        line.inbox.clear()
        return replies

    def _ask(self, request: list[bytes]) -> Any:
        line, home = self._line, self._home
        if home.closed or line.ended:
            return None
        home.travel()
        found = line.ask(request)
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def plain(self) -> Any:
        """redis-py's own client."""
        if self._plain is None:
            self._plain = self._make()
        return self._plain


class QuickScript:
    """One of Celery's scripts; stands for redis-py's ``Script``."""

    def __init__(self, client: QuickClient, known: KnownScript, text: Any) -> None:
        self._client = client
        self._known = known
        self._text = text

    def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        """Run it."""
        if (client is not None and client is not self._client) or self._client.watched:
            plain = self._client.plain
            return plain.register_script(self._text)(keys, args, plain if client is self._client else client)
        return self._client.run(self._known, list(map(_bytes, keys or ())), list(map(_bytes, args or ())))


def _script_line(original: Any, client: Any, script: str) -> Any:
    if isinstance(client, QuickClient) and known_script(script) is not None:
        return QuickScriptLine(client, script)
    return ScriptLines(partial(original, client, script))


class QuickPipeline:
    """A transaction of what a result backend writes; any other command makes it redis-py's own."""

    def __init__(self, client: QuickClient) -> None:
        self._client = client
        self._calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._requests: list[list[bytes]] = []
        self._plain: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._plain is not None:
            self._plain.reset()

    def setex(self, key: Any, seconds: Any, value: Any) -> Any:
        """SETEX."""
        if type(seconds) is not int:
            return self.__getattr__("setex")(key, seconds, value)
        return self._note(
            "setex", (key, seconds, value), [b"SETEX", _bytes(key), b"%d" % seconds, _bytes(value)]
        )

    def set(self, key: Any, value: Any, **options: Any) -> Any:
        """SET."""
        if options:
            return self.__getattr__("set")(key, value, **options)
        return self._note("set", (key, value), [b"SET", _bytes(key), _bytes(value)])

    def zrange(self, name: Any, start: Any, end: Any, **options: Any) -> Any:
        """ZRANGE."""
        if options or type(start) is not int or type(end) is not int:
            return self.__getattr__("zrange")(name, start, end, **options)
        return self._note("zrange", (name, start, end), [b"ZRANGE", _bytes(name), b"%d" % start, b"%d" % end])

    def publish(self, channel: Any, message: Any) -> Any:
        """PUBLISH."""
        return self._note("publish", (channel, message), [b"PUBLISH", _bytes(channel), _bytes(message)])

    def execute(self, raise_on_error: bool = True) -> Any:
        """Run all of it at once."""
        if self._plain is not None or self._client.hindered:
            return self.__getattr__("execute")(raise_on_error)
        replies = self._client.ask_many([_MULTI, *self._requests, _EXEC])[-1]
        self._calls.clear()
        self._requests.clear()
        return replies

    def _note(self, name: str, args: tuple[Any, ...], request: list[bytes]) -> Any:
        if self._plain is not None:
            return getattr(self._plain, name)(*args)
        self._calls.append((name, args, {}))
        self._requests.append(request)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._plain is None:
            self._plain = self._client.plain.pipeline()
            for call, args, options in self._calls:
                getattr(self._plain, call)(*args, **options)
        return getattr(self._plain, name)


class _Connection:
    """What the result backend looks at of a subscription's connection."""

    def __init__(self, line: Line) -> None:
        self._sock = line

    def can_read(self, timeout: float | None = 0) -> bool:
        check_open(self._sock)
        return bool(self._sock.inbox)

    def register_connect_callback(self, callback: Any) -> None:
        """Do nothing: a simulated connection is never made again."""


class QuickPubSub:
    """Channels that one result consumer follows."""

    def __init__(self, client: QuickClient) -> None:
        self._client = client
        self._home = client._home  # noqa: SLF001 - one module
        self._line = self._home.may_break(client.open_line())
        self._channels: dict[bytes, None] = {}
        self._closed = False
        self.connection = _Connection(self._line)

    @property
    def connection_pool(self) -> Any:
        """The pool of redis-py's own client."""
        return self._client.plain.connection_pool

    @property
    def subscribed(self) -> bool:
        """Whether any channel is followed."""
        return bool(self._channels)

    @property
    def channels(self) -> dict[bytes, None]:
        """What is followed."""
        return self._channels

    def subscribe(self, *channels: Any) -> None:
        """Follow channels."""
        new = [key for channel in channels if (key := _bytes(channel)) not in self._channels]
        self._channels.update(dict.fromkeys(new))
        if new:
            self._tell([b"SUBSCRIBE", *new])

    def unsubscribe(self, *channels: Any) -> None:
        """Leave channels, or all of them."""
        old = [key for key in map(_bytes, channels or tuple(self._channels)) if key in self._channels]
        for key in old:
            del self._channels[key]
        if old:
            self._tell([b"UNSUBSCRIBE", *old])

    def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """Return the next message, waiting ``timeout`` virtual seconds for it."""
        line = self._line
        if not line.inbox and timeout != 0:
            self._home.wait(line, timeout)
        if not line.inbox:
            check_open(line)
            return None
        kind, channel, data = line.inbox.popleft()
        return {"type": kind.decode(), "pattern": None, "channel": channel, "data": data}

    def close(self) -> None:
        """Leave everything."""
        self._closed = True
        self._channels.clear()
        self._line.close()

    def _tell(self, request: list[bytes]) -> None:
        # No time passes: nobody waits for an answer. Who leaves may be the finalizer of a result, and then
        # the next one with its id comes again; no seed decides when the garbage collector runs.
        if self._home.closed or self._closed:
            return
        line, obstacles = self._line, self._line.obstacles
        if line.ended and request[0] == b"UNSUBSCRIBE":
            return
        check_open(line)
        if obstacles is not None:
            obstacles.send(line, [request])
            if request[0] == b"SUBSCRIBE":
                check_open(line)
            return
        inbox = line.inbox
        line.send([request])
        # What confirms it, last of all that came in, is of no interest to anybody.
        while inbox and inbox[-1][0] in _CONFIRMATIONS:
            inbox.pop()


def check_open(line: Line) -> None:
    """Raise redis-py's error for a connection that somebody has cut, once all is read."""
    if line.ended and not line.inbox:
        raise ConnectionError(CLOSED)


def _bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if type(value) is str:
        return value.encode()
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else str(value).encode()
