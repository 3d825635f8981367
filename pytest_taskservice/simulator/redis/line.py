"""One client's session with a simulated server: requests in as words, replies out as they are.

No byte of the Redis protocol is written or read here. What is in :mod:`.quick` runs there; everything
else runs in fakeredis, with the faults mended that ``pytest_taskservice.redis.mended`` lists.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fakeredis._commands import Signature
from fakeredis._helpers import OK, QUEUED, NoResponse, SimpleError
from fakeredis._msgs import FLAG_TRANSACTION
from fakeredis._socket._resp import extract_command

from pytest_taskservice.redis.mended import MendedSocket, failure
from pytest_taskservice.simulator.redis.keyspace import announce
from pytest_taskservice.simulator.redis.known import known_command
from pytest_taskservice.simulator.redis.queues import COMMANDS
from pytest_taskservice.simulator.redis.quick import SLOW
from pytest_taskservice.simulator.redis.scripting import SCRIPTING, KnownScripts

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from pytest_taskservice.simulator.redis.known import Known
    from pytest_taskservice.simulator.redis.obstacles import Obstacles
    from pytest_taskservice.simulator.redis.store import Store

__all__ = ["Line", "Push"]

_OURS: dict[str, tuple[str, Any, Any]] = {
    **SCRIPTING,
    "config get": ("config_get", (bytes,), (bytes,)),
    "config set": ("config_set", (bytes, bytes), (bytes, bytes)),
    "config resetstat": ("config_resetstat", (), ()),
}
_MULTI = [b"MULTI"]
_EXEC = [b"EXEC"]
_QUICK = {name.upper().encode(): command for name, command in COMMANDS.items()}

logger = logging.getLogger(__name__)


class Push(list[Any]):
    """A message that answers no request, in RESP3."""


class Line(KnownScripts, MendedSocket):
    """What a connection holds in place of a socket while a simulation is open."""

    _server: Store

    def __init__(self, store: Store, *, database: int, protocol: int, info: dict[str, Any]) -> None:
        self.inbox: deque[Any] = deque()
        """Replies and messages that were not read yet."""
        self.deadline: float | None = None
        """When, on the virtual monotonic clock, the request that blocks ends with nothing."""
        self.loop: AbstractEventLoop | None = None
        self.notify: Callable[[], None] | None = None
        """Called, from any thread, when something has come in."""
        self.ended = False
        """Whether either side has closed it."""
        self.client = ""
        """Who used it last, see :func:`.caller`; only kept while there are obstacles."""
        self.kept: list[Callable[[], None]] = []
        """What happens once the way is not silent any more."""
        self.arrives = 0.0
        """When, after the simulation's opening, what was said last comes in on a slow way."""
        self._asked: list[bytes] = []
        self._behind: deque[list[bytes]] = deque()
        self.protocol = protocol
        super().__init__(store, store.room, info | {"resp": protocol})
        if database:
            self._db = store.dbs[database]
            self._db_num = database

    @property
    def subscribed(self) -> bool:
        """Whether messages may come in."""
        return bool(self._pubsub)

    @property
    def asked(self) -> str:
        """What was asked for last, to be told in errors."""
        return " ".join(word.decode("utf-8", "replace")[:40] for word in self._asked[:2]) or "nothing"

    def ready(self) -> bool:
        """Return whether a read need not wait."""
        return bool(self.inbox) or self.ended

    def send(self, requests: list[list[bytes]]) -> None:
        """Run requests, one after the other, until one of them blocks."""
        store = self._server
        self._asked = requests[-1] if requests else []
        store.enter()
        try:
            if len(requests) > 2 and self._transact(requests):
                requests = []
            for words in requests:
                if self._retry is None:
                    self._request(words)
                else:
                    self._behind.append(words)
            if store.changed:
                store.serve()
        finally:
            store.leave()

    def deliver(self, requests: list[list[bytes]]) -> float | None:
        """Do what :meth:`send` does, past what is in the way; return the seconds until an answer is there.

        ``None``: the connection is broken.
        """
        if self.ended:
            return None
        obstacles = self.obstacles
        if obstacles is not None:
            return obstacles.send(self, requests)
        self.send(requests)
        return 0.0

    def ask(self, words: list[bytes]) -> Any:
        """Run one request that does not block and return its reply; the line is used for nothing else."""
        store = self._server
        quick = _QUICK.get(words[0])
        if quick is not None and self._transaction is None and not self._pubsub and not store.slow:
            store.enter()
            try:
                reply = quick(self, words[1:])
                if store.changed:
                    store.serve()
            finally:
                store.leave()
            if reply is not SLOW:
                return reply
        self.send([words])
        return self.inbox.popleft()

    def run(self, script: Callable[..., Any], *args: Any) -> Any:
        """Run all that ``script(line, *args)`` calls at once, as the server runs a script."""
        store = self._server
        store.enter()
        try:
            store.set_time()
            reply = script(self, *args)
            if store.changed:
                store.serve()
            return reply
        finally:
            store.leave()

    def call(self, *words: bytes) -> Any:
        """Run one command of a script; its error is raised."""
        known = known_command(words[0])
        assert known is not None, words
        assert known.takes(len(words) - 1), words
        arguments = list(words[1:])
        reply = SLOW if known.quick is None else known.quick(self, arguments)
        if reply is SLOW:
            reply = self._run_command(getattr(self, known.method), known.signature, arguments, True)
        if isinstance(reply, SimpleError):
            raise reply
        return reply

    @property
    def watched(self) -> bool:
        """Whether every command must take the long way: it is restricted, or told of."""
        return self._server.slow

    def end_wait(self) -> None:
        """End the request that blocks, with nothing: its time is over."""
        store = self._server
        store.enter()
        try:
            self.retry(expired=True)
            if store.changed:
                store.serve()
        finally:
            store.leave()

    def put_response(self, msg: Any) -> None:
        """Take a message in: every reply comes another way."""
        obstacles = self._server.obstacles
        if obstacles is None or not obstacles.keeps(self, partial(self._take_in, msg), msg):
            self._take_in(msg)

    def _take_in(self, msg: Any) -> None:
        self.inbox.append(msg if self.protocol == 2 else Push(msg))
        if self.notify is not None:
            self.notify()

    def answer(self, reply: Any) -> None:
        """Deliver the reply of a request that blocked, and go on with those behind it."""
        obstacles = self._server.obstacles
        if obstacles is None or not obstacles.keeps(self, partial(self._answer, reply), reply):
            self._answer(reply)

    def arrive(self, kept: list[Callable[[], None]]) -> None:
        """Let happen, in order, what something has held back, unless the connection is no more."""
        for each in kept:
            if not self.ended:
                each()
        if self.notify is not None:
            self.notify()

    def _answer(self, reply: Any) -> None:
        self._deliver(reply)
        while self._behind and self._retry is None:
            self._request(self._behind.popleft())

    def alarm(self, seconds: float) -> Callable[[], None]:
        """Note when the request that begins to block must end: whoever reads sees to it."""
        store = self._server
        self.deadline = store.simulation.monotonic() + seconds
        return self._forget_deadline

    @property
    def obstacles(self) -> Obstacles | None:
        """What stands in the ways to its server, if anything does."""
        return self._server.obstacles if self._server is not None else None

    def leads_to(self, store: Store) -> bool:
        """Return whether it is a connection to ``store``."""
        return self._server is store

    def kill(self) -> None:
        """Close the connection, for CLIENT KILL, and for faults."""
        if self._server is not None:
            super().kill()
            self.stop_waiting()
        self.ended = True
        if self.notify is not None:
            self.notify()

    def close(self) -> None:
        """Forget everything, as a server does when a client is gone; a finalizer may call this."""
        if self._server is not None:
            self.stop_waiting()
            super().close()
        self.ended = True

    def shutdown(self, _: Any) -> None:
        """Do nothing: a socket would."""

    async def wait_closed(self) -> None:
        """Return: it is closed at once."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what a transport knows of its socket, which is nothing."""
        return default

    # Commands that fakeredis lacks.

    def config_get(self, *patterns: bytes) -> dict[bytes, bytes]:
        """CONFIG GET."""
        store = self._server
        return store.matching_config(patterns)

    def config_set(self, *pairs: bytes) -> Any:
        """CONFIG SET: only notify-keyspace-events has an effect."""
        store = self._server
        store.configure(dict(zip(pairs[::2], pairs[1::2], strict=True)))
        return OK

    def config_resetstat(self) -> Any:
        """CONFIG RESETSTAT."""
        return OK

    # How a request runs.

    def _request(self, words: list[bytes]) -> None:
        store = self._server
        quick = _QUICK.get(words[0])
        if quick is not None and self._transaction is None and not self._pubsub and not store.slow:
            reply = quick(self, words[1:])
            if reply is not SLOW:
                self.inbox.append(reply)
                return
        elif self._listens(words):
            return
        name, arguments = extract_command(words)
        try:
            reply = self._dispatch(name, arguments, words)
        except Exception as error:  # noqa: BLE001 - a fault of fakeredis fails one request, not the world
            logger.warning("fakeredis failed at %r: %r", name, error)
            reply = failure(error)
        if name == "hello":
            self.protocol = self._client_info.protocol_version
        elif name.startswith(("acl", "client reply")):
            store.slow = True
        self._deliver(reply)

    def _listens(self, words: list[bytes]) -> bool:
        """Subscribe or unsubscribe, if that is all there is to it; return whether it was done."""
        if len(words) < 2 or self._transaction is not None or self._server.slow or self._muted():
            return False
        if words[0] == b"SUBSCRIBE":
            self._subscribe(words[1:], self._server.subscribers, b"subscribe")
        elif words[0] == b"UNSUBSCRIBE":
            self._unsubscribe(words[1:], self._server.subscribers, b"unsubscribe")
        else:
            return False
        return True

    def _transact(self, requests: list[list[bytes]]) -> bool:
        """Run a whole transaction at once; return whether it is one that can be queued without a fault."""
        if requests[0] != _MULTI or requests[-1] != _EXEC or self._server.slow or self._pubsub:
            return False
        if self._transaction is not None or self._retry is not None or self._muted():
            return False
        commands = []
        for words in requests[1:-1]:
            known = known_command(words[0]) if words else None
            if known is None or not known.takes(len(words) - 1):
                return False
            commands.append((known, words[1:]))
        outdated = self._watch_notified
        self._clear_watches()
        self.inbox.extend([OK, *[QUEUED] * len(commands), None if outdated else self._results(commands)])
        return True

    def _results(self, commands: list[tuple[Known, list[bytes]]]) -> list[Any]:
        results = []
        self._server.set_time()
        self._in_transaction = True
        try:
            for known, arguments in commands:
                reply = SLOW if known.quick is None else known.quick(self, arguments)
                if reply is SLOW:
                    reply = self._run_command(getattr(self, known.method), known.signature, arguments, False)
                results.append(reply)
        finally:
            self._in_transaction = False
        return results

    def _muted(self) -> bool:
        return bool(self._reply_off or self._reply_skip or self._reply_skip_next)

    def _dispatch(self, name: str, arguments: list[bytes], words: list[bytes]) -> Any:
        store = self._server
        try:
            run, signature = self._name_to_func(name)
            store.acl.validate_command(self._client_info.user, self._client_info, words)
            store.set_time()
            signature.check_arity(arguments, store.version)
        except SimpleError as error:
            return self._refuse(name, error)
        if self._transaction is None or FLAG_TRANSACTION in signature.flags:
            return self._run_command(run, signature, arguments, False)
        self._transaction.append((run, signature, arguments))
        return QUEUED

    def _refuse(self, name: str, error: SimpleError) -> SimpleError:
        if self._transaction is not None:
            self._transaction_failed = True
        if name == "exec" and error.value.startswith("ERR "):
            error.value = "EXECABORT Transaction discarded because of: " + error.value[4:]
            self._forget_transaction()
            self._clear_watches()
        return error

    def _run_command(
        self, func: Callable[..., Any] | None, sig: Signature, args: list[Any], from_script: bool
    ) -> Any:
        store = self._server
        quick = COMMANDS.get(sig.name)
        if quick is not None and not store.slow and not self._pubsub:
            reply = quick(self, args)
            if reply is not SLOW:
                return reply
        if self.protocol == 2 or not self._pubsub or sig.name in self.ACCEPTED_COMMANDS_WHILE_PUBSUB:
            return super()._run_command(func, sig, args, from_script)
        # In RESP3 a client that has subscribed may ask for anything; fakeredis looks at this number alone.
        held, self._pubsub = self._pubsub, 0
        try:
            return super()._run_command(func, sig, args, from_script)
        finally:
            self._pubsub = held

    def _deliver(self, reply: Any) -> None:
        muted = self._reply_off or self._reply_skip
        self._reply_skip, self._reply_skip_next = self._reply_skip_next, False
        if muted or isinstance(reply, NoResponse):
            return
        self.inbox.append(reply)
        if self.notify is not None:
            self.notify()

    def _outcome(self, attempt: Callable[[bool], Any]) -> Any:
        # A push that comes when the wait was over, but before anybody looked, is not for us.
        if self.deadline is not None and self._server.simulation.monotonic() >= self.deadline:
            return None
        return super()._outcome(attempt)

    def _forget_deadline(self) -> None:
        self.deadline = None

    def _name_to_func(self, cmd_name: str) -> tuple[Callable[..., Any] | None, Signature]:
        if cmd_name in _OURS:
            method, fixed, repeat = _OURS[cmd_name]
            return getattr(self, method), Signature(cmd_name, method, fixed, repeat)
        return super()._name_to_func(cmd_name)

    def _unsubscribe(self, channels: Any, subscribers: Any, mtype: bytes) -> NoResponse:
        if not channels and not any(self in crowd for crowd in subscribers.values()):
            # Redis confirms that there was nothing to leave; fakeredis says nothing.
            self.put_response([mtype, None, self._pubsub])
        reply: NoResponse = super()._unsubscribe(channels, subscribers, mtype)
        return reply

    def _keyspace_notifications(self, command_items: list[Any], event: bytes) -> None:
        store = self._server
        if store.announces:
            announce(store, self._db_num, command_items, event)
