"""Results of Celery runs, awaited: one thread per back end, however many wait.

On Redis a waiter's channel is followed, and once the server has confirmed that, the stored result
is read, so none is missed in between. A run of a packed message is told on the channel of its pack,
see `packed_results`, until it goes on alone. Other result backends are polled.
"""

# ruff: noqa: D102 - ChannelFollower documents what it is to the listening thread

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from celery.backends.redis import RedisBackend
from kombu.utils.json import loads

from taskservice.backends.listening import LAST_DELAY, ListeningThread, follow_channels
from taskservice.backends.loops import LoopNotifiers
from taskservice.backends.waiting import Waiter, Waiters
from taskservice.errors import ServiceClosedError
from taskservice.runs import TaskState

if TYPE_CHECKING:
    from celery.backends.base import Backend

    from taskservice.backends.waiting import ResultTaker

__all__ = ["ResultListener", "read_meta", "read_metas", "shares_its_pack"]

READ_BATCH: Final = 500
CROWD: Final = 100
CROWD_DELAY: Final = 0.005
CROWD_SHARE: Final = 0.000005
LONGEST_CROWD_DELAY: Final = 0.02
"""With more than a crowd waiting, news is taken in lots: each costs a turn of this thread and of a loop."""
UNFINISHED: Final = b'{"status": "STARTED"'
FINAL_STATES: Final = frozenset(state.value for state in TaskState if state.final)


def read_meta(backend: Backend, run_id: str) -> Mapping[str, Any] | None:
    """Return what is stored about a run, on Redis with its error not rebuilt; it blocks."""
    source: Any = backend
    if not isinstance(backend, RedisBackend):
        meta: Mapping[str, Any] = source.get_task_meta(run_id, cache=False)
        return meta

    payload = source.get(source.get_key_for_task(run_id))
    return None if payload is None else source.decode(payload)


def read_metas(backend: Backend, run_ids: Sequence[str]) -> list[Mapping[str, Any] | None]:
    """Return what is stored about each run, on Redis in few round trips; see `read_meta`."""
    source: Any = backend
    if not isinstance(backend, RedisBackend):
        return [read_meta(backend, run_id) for run_id in run_ids]

    found: list[Mapping[str, Any] | None] = []
    for start in range(0, len(run_ids), READ_BATCH):
        keys = [source.get_key_for_task(run_id) for run_id in run_ids[start : start + READ_BATCH]]
        found += [None if payload is None else source.decode(payload) for payload in source.mget(keys)]
    return found


def shares_its_pack(backend: Backend, state: TaskState) -> bool:
    """Return whether a run of a pack is lost with it, if nothing but ``state`` is stored of it."""
    if state is TaskState.STARTED:
        # On Redis a pack does not store that its runs have started: whoever has goes on alone.
        return not isinstance(backend, RedisBackend)
    return state is TaskState.PENDING


def _loads(payload: bytes) -> Any:
    # What kombu looks for in each object is in very few.
    return loads(payload) if b"__type__" in payload else json.loads(payload)


class ResultListener:
    """Hands final results to whoever awaits them. The thread starts with the first waiter.

    ``poll_interval``, in seconds, is for result backends other than Redis.
    """

    def __init__(self, backend: Backend, *, poll_interval: float = 0.05) -> None:
        self._backend: Any = backend
        self._on_redis = isinstance(backend, RedisBackend)
        self._poll_interval = poll_interval
        self._waiters = Waiters()
        self._leaving: deque[Waiter] = deque()
        self._notifiers = LoopNotifiers()
        # The runs of a pack come one after another.
        self._key = lru_cache(maxsize=8)(self._make_key)
        serve = self._listen if self._on_redis else self._poll
        self._thread = ListeningThread("taskservice-results", serve, failed=self._fail_all)

    async def wait(self, run_id: str, pack_id: str | None = None) -> Mapping[str, Any]:
        """Return the stored result once it is final; a wait costs no thread.

        Of a run that its pack took along it is the result of the pack; its ``task_id`` says whose it is.
        """
        event = anyio.Event()
        found: list[tuple[Mapping[str, Any] | None, Exception | None]] = []

        def take(meta: Mapping[str, Any] | None, error: Exception | None) -> None:
            found.append((meta, error))
            event.set()

        waiter = self._enter(run_id, take, pack_id)
        try:
            await event.wait()
        finally:
            if self._waiters.remove(waiter):
                self._thread.wake()

        meta, error = found[0]
        if meta is None:
            raise error or ServiceClosedError("Celery back end")
        return meta

    def watch(self, run_id: str, take: ResultTaker, pack_id: str | None = None) -> Callable[[], None]:
        """Have ``take`` called in this event loop once the stored result is final, or never will be.

        What is returned takes that back; it locks nothing, so a finalizer may call it anywhere.
        """
        return partial(self._leave, self._enter(run_id, take, pack_id))

    def close(self) -> None:
        """Stop the thread; whoever waits gets `ServiceClosedError`. It blocks for a moment."""
        if self._thread.close():
            self._fail_all(ServiceClosedError("Celery back end"))

    def _enter(self, run_id: str, take: ResultTaker, pack_id: str | None) -> Waiter:
        channel = self._key(run_id if pack_id is None else pack_id)
        waiter = Waiter(channel, run_id, self._notifiers.current(), take)
        self._waiters.add(waiter, pack_id)
        if self._thread.closed:
            # Looked at after it was added: closing fails whoever it finds, and may have looked before.
            self._waiters.remove(waiter)
            raise ServiceClosedError("Celery back end")
        self._thread.start()
        self._thread.wake()
        return waiter

    def _leave(self, waiter: Waiter) -> None:
        self._leaving.append(waiter)
        self._thread.wake()

    def _make_key(self, run_id: str) -> bytes:
        key = self._backend.get_key_for_task(run_id) if self._on_redis else run_id
        return key.encode() if isinstance(key, str) else bytes(key)

    def _let_leave(self) -> None:
        while self._leaving:
            self._waiters.remove(self._leaving.popleft())

    def _fail_all(self, error: Exception) -> None:
        for channel in tuple(self._waiters.wanted):
            self._waiters.deliver(channel, self._waiters.runs(channel), error=error)
        self._waiters.tell()

    def _listen(self) -> None:
        follow_channels(self._thread, self._backend.client, self, pause=self._let_gather)

    @property
    def wanted(self) -> Mapping[bytes, object]:
        return self._waiters.wanted

    def touched(self) -> Collection[bytes]:
        self._let_leave()
        return self._waiters.touched()

    def known(self, channels: Collection[bytes]) -> None:
        self._read_stored((channel, self._waiters.unread(channel)) for channel in channels)

    def followed(self, channels: Collection[bytes]) -> None:
        self._read_stored((channel, self._waiters.runs(channel)) for channel in channels)

    def take(self, payloads: Sequence[tuple[bytes, bytes]]) -> None:
        for channel, payload in payloads:
            pack_id = self._waiters.pack_of(channel)
            if pack_id is None:
                if payload.startswith(UNFINISHED):
                    continue
                for run_id in self._waiters.runs(channel):
                    self._take(channel, run_id, payload)
            elif payload.startswith(b"["):
                self._take_list(channel, payload)
            else:
                # The end of the message: of some of its runs there may be more to say.
                self._read_stored([(channel, self._waiters.runs(channel))])
        self._waiters.tell()

    def _let_gather(self) -> None:
        waiting = len(self._waiters.wanted)
        if waiting > CROWD:
            delay = max(CROWD_DELAY, min(LONGEST_CROWD_DELAY, waiting * CROWD_SHARE))
            threading.Event().wait(delay)

    def _read_stored(self, asked: Iterable[tuple[bytes, Sequence[str]]]) -> None:
        """Look at what is stored of these runs; of a pack itself after its runs."""
        found: list[tuple[bytes, str]] = []
        for channel, run_ids in asked:
            found += [(channel, run_id) for run_id in run_ids]
            if run_ids and (pack_id := self._waiters.pack_of(channel)) is not None:
                found.append((channel, pack_id))
        self._take_stored(found)
        self._waiters.tell()

    def _take_stored(self, found: Sequence[tuple[bytes, str]]) -> None:
        for start in range(0, len(found), READ_BATCH):
            batch = found[start : start + READ_BATCH]
            keys = [self._make_key(run_id) for _, run_id in batch]
            payloads: Sequence[bytes | None] = self._backend.client.mget(keys)
            for (channel, run_id), payload in zip(batch, payloads, strict=True):
                if payload is not None:
                    self._take(channel, run_id, payload)

    def _take(self, channel: bytes, run_id: str, payload: bytes) -> None:
        pack_id = self._waiters.pack_of(channel)
        if pack_id is None and isinstance(payload, bytes) and payload.startswith(UNFINISHED):
            return
        try:
            meta = self._decode(payload)
        except Exception as error:  # noqa: BLE001 - whatever the content, its waiter must hear of it
            self._waiters.deliver(channel, [run_id], error=error)
            return

        if run_id == pack_id:
            self._take_pack(channel, meta)
        else:
            self._take_meta(channel, run_id, meta, packed=pack_id is not None)

    def _decode(self, payload: bytes) -> Any:
        # Celery's way is one through its registry of serializers.
        plain = isinstance(payload, bytes) and payload.startswith(b"{") and self._backend.serializer == "json"
        return _loads(payload) if plain else self._backend.decode(payload)

    def _take_meta(self, channel: bytes, run_id: str, meta: Mapping[str, Any], *, packed: bool) -> None:
        if meta["status"] in FINAL_STATES:
            self._waiters.deliver(channel, [run_id], meta=meta)
        elif packed:
            self._waiters.move(channel, run_id, self._make_key(run_id))
            self._thread.wake()

    def _take_pack(self, channel: bytes, meta: Mapping[str, Any]) -> None:
        # If all went well it says nothing about its runs.
        if meta["status"] not in FINAL_STATES or meta["status"] == TaskState.SUCCESS:
            return

        run_ids = self._waiters.runs(channel)
        # What came of some of them was stored before this, but perhaps after they were last read.
        self._read_runs(channel, run_ids)
        self._waiters.deliver(channel, run_ids, meta=meta)

    def _take_list(self, channel: bytes, payload: bytes) -> None:
        for meta in _loads(payload):
            if meta is None:
                self._read_stored([(channel, self._waiters.runs(channel))])
            else:
                self._take_meta(channel, meta["task_id"], meta, packed=True)

    def _poll(self) -> None:
        """Ask a result backend that cannot tell, for each waiter, once per interval."""
        while not self._thread.closed:
            self._let_leave()
            for channel in tuple(self._waiters.wanted):
                self._ask(channel)
            self._waiters.tell()
            if self._waiters.wanted:
                self._tick()
            else:
                self._thread.sleep(LAST_DELAY)

    def _ask(self, channel: bytes) -> None:
        pack_id = self._waiters.pack_of(channel)
        self._read_runs(channel, self._waiters.runs(channel))
        if pack_id is not None and (meta := read_meta(self._backend, pack_id)) is not None:
            self._take_pack(channel, meta)

    def _read_runs(self, channel: bytes, run_ids: Sequence[str]) -> None:
        if self._on_redis:
            self._take_stored([(channel, run_id) for run_id in run_ids])
            return

        packed = self._waiters.pack_of(channel) is not None
        for run_id in run_ids:
            meta = read_meta(self._backend, run_id)
            if meta is not None:
                # Not all that is no end goes on alone here: such a back end stores that a run has started.
                alone = packed and meta["status"] == TaskState.RETRY
                self._take_meta(channel, run_id, meta, packed=alone)

    def _tick(self) -> None:
        # Not woken by newcomers: they are in the next round anyway.
        threading.Event().wait(self._poll_interval)
