"""Results of Celery runs, awaited: one thread per back end, however many wait.

On Redis a waiter's channel is followed, and once the server has confirmed that, the stored result
is read, so none is missed in between. Other result backends are polled.
"""

# ruff: noqa: D102 - ChannelFollower documents what it is to the listening thread

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from celery.backends.redis import RedisBackend

from taskservice.backends.listening import LAST_DELAY, ListeningThread, follow_channels
from taskservice.backends.loops import LoopNotifier, current_notifier
from taskservice.errors import ServiceClosedError
from taskservice.runs import TaskState

if TYPE_CHECKING:
    from celery.backends.base import Backend

__all__ = ["ResultListener", "read_meta", "read_metas"]

ResultTaker = Callable[[Mapping[str, Any] | None, Exception | None], object]
"""Gets the stored result, or the error for which there will be none."""

READ_BATCH: Final = 500
CROWD: Final = 100
CROWD_DELAY: Final = 0.005
"""With more than a crowd waiting, news is taken in lots: each costs a turn of this thread."""
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


class _Waiter:
    __slots__ = ("notify", "take")

    def __init__(self, notify: LoopNotifier, take: ResultTaker) -> None:
        self.notify = notify
        self.take = take


class ResultListener:
    """Hands final results to whoever awaits them. The thread starts with the first waiter.

    ``poll_interval``, in seconds, is for result backends other than Redis.
    """

    def __init__(self, backend: Backend, *, poll_interval: float = 0.05) -> None:
        self._backend: Any = backend
        self._on_redis = isinstance(backend, RedisBackend)
        self._poll_interval = poll_interval
        self._lock = threading.Lock()
        self._waiters: dict[bytes, set[_Waiter]] = {}
        self._changed: deque[bytes] = deque()
        self._leaving: deque[tuple[list[bytes], _Waiter]] = deque()
        serve = self._listen if self._on_redis else self._poll
        self._thread = ListeningThread("taskservice-results", serve, failed=self._fail_all)

    async def wait(self, run_id: str, *others: str) -> Mapping[str, Any]:
        """Return the stored result once it is final; a wait costs no thread.

        With ``others``, whichever of the results comes first; its ``task_id`` says whose it is.
        """
        event = anyio.Event()
        found: list[tuple[Mapping[str, Any] | None, Exception | None]] = []

        def take(meta: Mapping[str, Any] | None, error: Exception | None) -> None:
            found.append((meta, error))
            event.set()

        keys, waiter = self._enter((run_id, *others), take)
        try:
            await event.wait()
        finally:
            self._remove(keys, waiter)

        meta, error = found[0]
        if meta is None:
            raise error or ServiceClosedError("Celery back end")
        return meta

    def watch(self, run_id: str, take: ResultTaker, *others: str) -> Callable[[], None]:
        """Have ``take`` called in this event loop once the stored result is final, or never will be.

        What is returned takes that back; it locks nothing, so a finalizer may call it anywhere.
        """
        keys, waiter = self._enter((run_id, *others), take)

        def leave() -> None:
            self._leaving.append((keys, waiter))
            self._thread.wake()

        return leave

    def close(self) -> None:
        """Stop the thread; whoever waits gets `ServiceClosedError`. It blocks for a moment."""
        if self._thread.close():
            self._fail_all(ServiceClosedError("Celery back end"))

    def _enter(self, run_ids: Sequence[str], take: ResultTaker) -> tuple[list[bytes], _Waiter]:
        keys, waiter = [self._key(each) for each in run_ids], _Waiter(current_notifier(), take)
        self._add(keys, waiter)
        return keys, waiter

    def _key(self, run_id: str) -> bytes:
        key = self._backend.get_key_for_task(run_id) if self._on_redis else run_id
        return key.encode() if isinstance(key, str) else bytes(key)

    def _add(self, keys: Sequence[bytes], waiter: _Waiter) -> None:
        with self._lock:
            for key in keys:
                self._waiters.setdefault(key, set()).add(waiter)
            self._changed.extend(keys)
        if self._thread.closed:
            # Looked at after it was added: closing fails whoever it finds, and may have looked before.
            self._remove(keys, waiter)
            raise ServiceClosedError("Celery back end")
        self._thread.start()
        self._thread.wake()

    def _remove(self, keys: Sequence[bytes], waiter: _Waiter) -> None:
        left: list[bytes] = []
        with self._lock:
            for key in keys:
                waiters = self._waiters.get(key, set())
                waiters.discard(waiter)
                if key in self._waiters and not waiters:
                    del self._waiters[key]
                    left.append(key)
            self._changed.extend(left)
        if left:
            self._thread.wake()

    def _let_leave(self) -> None:
        while self._leaving:
            self._remove(*self._leaving.popleft())

    def _deliver(
        self, key: bytes, *, meta: Mapping[str, Any] | None = None, error: Exception | None = None
    ) -> None:
        with self._lock:
            waiters = self._waiters.pop(key, set())
            self._changed.append(key)
        for waiter in waiters:
            waiter.notify(partial(waiter.take, meta, error))

    def _fail_all(self, error: Exception) -> None:
        for key in tuple(self._waiters):
            self._deliver(key, error=error)

    def _listen(self) -> None:
        follow_channels(self._thread, self._backend.client, self, pause=self._let_gather)

    @property
    def wanted(self) -> Mapping[bytes, object]:
        return self._waiters

    def touched(self) -> Collection[bytes]:
        self._let_leave()
        with self._lock:
            changed = set(self._changed)
            self._changed.clear()
        return changed

    def known(self, channels: Collection[bytes]) -> None:
        self._read_stored(channels)

    def followed(self, channels: Collection[bytes]) -> None:
        self._read_stored(channels)

    def take(self, payloads: Sequence[tuple[bytes, bytes]]) -> None:
        for key, payload in payloads:
            self._take(key, payload)

    def _let_gather(self) -> None:
        if len(self._waiters) > CROWD:
            threading.Event().wait(CROWD_DELAY)

    def _read_stored(self, keys: Collection[bytes]) -> None:
        found = [key for key in keys if key in self._waiters]
        for start in range(0, len(found), READ_BATCH):
            batch = found[start : start + READ_BATCH]
            payloads: Sequence[bytes | None] = self._backend.client.mget(batch)
            for key, payload in zip(batch, payloads, strict=True):
                if payload is not None:
                    self._take(key, payload)

    def _take(self, key: bytes, payload: bytes) -> None:
        if isinstance(payload, bytes) and payload.startswith(UNFINISHED):
            return
        try:
            meta = self._backend.decode(payload)
        except Exception as error:  # noqa: BLE001 - whatever the content, its waiter must hear of it
            self._deliver(key, error=error)
            return

        if meta["status"] in FINAL_STATES:
            self._deliver(key, meta=meta)

    def _poll(self) -> None:
        """Ask a result backend that cannot tell, for each waiter, once per interval."""
        while not self._thread.closed:
            self._let_leave()
            for key in tuple(self._waiters):
                meta = read_meta(self._backend, key.decode())
                if meta is not None and meta["status"] in FINAL_STATES:
                    self._deliver(key, meta=meta)
            if self._waiters:
                self._tick()
            else:
                self._thread.sleep(LAST_DELAY)

    def _tick(self) -> None:
        # Not woken by newcomers: they are in the next round anyway.
        threading.Event().wait(self._poll_interval)
