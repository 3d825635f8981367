"""Records: who launched which task, and which workflow run an idempotency key has started.

In the service's Redis where runs outlive this process, in memory where they do not.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio import to_thread
from redis.exceptions import RedisError

from taskservice.backends.idempotency import KeyClaims, launch_once
from taskservice.errors import BackendUnavailableError, WorkflowExpiredError
from taskservice.runs import new_run_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taskservice.backends.storage import Storage

__all__ = ["LocalRecords", "Records", "SharedRecords", "scoped"]

MOST: Final = 100_000


class Records(Protocol):
    """What the API remembers itself."""

    async def own(self, owner: str, task_id: str, delay: float) -> None:
        """Note that ``owner`` launched a task, to start in ``delay`` seconds."""

    async def owns(self, owner: str, task_id: str) -> bool:
        """Return whether ``owner`` did."""

    async def start_once(self, key: str, begin: Callable[[], Awaitable[str]]) -> str:
        """Return the run that ``key`` has started; without one, call ``begin`` for it, once."""

    def close(self) -> None:
        """Give connections back."""


def scoped(owner: str, *parts: str) -> str:
    """Return a key that is this owner's alone."""
    return sha256("\0".join((owner, *parts)).encode()).hexdigest()


class LocalRecords:
    """Records of one process, the newest of them."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, None] = OrderedDict()
        self._runs: OrderedDict[str, str] = OrderedDict()
        self._lock = anyio.Lock()

    async def own(self, owner: str, task_id: str, delay: float) -> None:  # noqa: D102 - Records
        self._owners[scoped(owner, task_id)] = None
        _shorten(self._owners)

    async def owns(self, owner: str, task_id: str) -> bool:  # noqa: D102 - Records
        return scoped(owner, task_id) in self._owners

    async def start_once(self, key: str, begin: Callable[[], Awaitable[str]]) -> str:  # noqa: D102 - Records
        async with self._lock:
            if key not in self._runs:
                self._runs[key] = await begin()
                _shorten(self._runs)
            return self._runs[key]

    def close(self) -> None:  # noqa: D102 - Records
        self._owners.clear()


class SharedRecords:
    """Records in Redis: an owner's for ``kept`` seconds, a key's for ``key_seconds``."""

    def __init__(self, storage: Storage, *, kept: float, key_seconds: float) -> None:
        self._storage = storage
        self._kept = kept
        self._key_ms = _milliseconds(key_seconds)
        self._claims = KeyClaims(storage, key_seconds)

    async def own(self, owner: str, task_id: str, delay: float) -> None:  # noqa: D102 - Records
        name = self._storage.key("api", "task", scoped(owner, task_id))
        await _off(partial(self._storage.client.set, name, "1", px=_milliseconds(self._kept + delay)))

    async def owns(self, owner: str, task_id: str) -> bool:  # noqa: D102 - Records
        name = self._storage.key("api", "task", scoped(owner, task_id))
        return bool(await _off(partial(self._storage.client.exists, name)))

    async def start_once(self, key: str, begin: Callable[[], Awaitable[str]]) -> str:  # noqa: D102 - Records
        # Claims are made for an id that is known before, and a run's is not: this stands for it.
        mine = new_run_id()

        async def send(_: frozenset[str]) -> None:
            run_id = await begin()
            await _off(partial(self._storage.client.set, self._run_key(mine), run_id, px=2 * self._key_ms))

        try:
            found = await launch_once(self._claims, {key: mine}, send)
        except RedisError as error:
            raise BackendUnavailableError("redis", str(error)) from error
        run_id = await _off(partial(self._storage.client.get, self._run_key(found[key])))
        if run_id is None:
            raise WorkflowExpiredError(found[key])
        return run_id.decode() if isinstance(run_id, bytes) else str(run_id)

    def close(self) -> None:  # noqa: D102 - Records
        self._storage.close()

    def _run_key(self, placeholder: str) -> str:
        return self._storage.key("api", "run", placeholder)


async def _off(call: Callable[[], Any]) -> Any:
    try:
        return await to_thread.run_sync(call)
    except RedisError as error:
        raise BackendUnavailableError("redis", str(error)) from error


def _shorten(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > MOST:
        kept.popitem(last=False)


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
