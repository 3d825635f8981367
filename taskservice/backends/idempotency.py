"""Idempotency keys: for one task, a key launches once, however many ask for it at the same time.

A key is claimed for a moment before its run is sent, and kept once it is. Whoever dies in between
leaves a claim that ends by itself.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from taskservice.backends.calls import function_name
from taskservice.submission import check_idempotency_key
from taskservice.tasks import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from taskservice.backends.base import TaskFunction
    from taskservice.backends.storage import Storage
    from taskservice.submission import LaunchOptions

__all__ = ["KeyClaims", "LocalKeys", "key_of", "launch_once"]

CLAIM_SECONDS: Final = 60.0
"""How long sending may take: longer than every bound on it."""
POLL_SECONDS: Final = 0.02
_BATCH: Final = 500
_CLAIMED: Final = "?"

_CLAIM: Final = """
local kept = redis.call('GET', KEYS[1])
if kept then return kept end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
# What somebody else has claimed since is theirs.
_KEEP: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
"""
_FREE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


def key_of(
    func: TaskFunction, args: Sequence[Any], kwargs: Mapping[str, Any], options: LaunchOptions | None = None
) -> str | None:
    """Return the name under which this launch happens once, or ``None`` if it may happen again.

    The caller's own key stands over what the task makes of the arguments.
    """
    key = None if options is None else options.idempotency_key
    if key is None and isinstance(func, TaskDefinition) and func.idempotency_key is not None:
        key = func.idempotency_key(*args, **kwargs)
        check_idempotency_key(key)
    if key is None:
        return None

    return sha256(f"{function_name(func)}\0{key}".encode()).hexdigest()


class LocalKeys:
    """Keys of the runs of one process, each for as long as its run is known."""

    def __init__(self) -> None:
        self._runs: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def run_of(self, key: str) -> str | None:
        """Return the id of the run that has the key."""
        return self._runs.get(key)

    def keep(self, key: str, run_id: str) -> None:
        """Note whose key it is."""
        self._runs[key] = run_id
        self._keys[run_id] = key

    def forget(self, run_id: str) -> None:
        """Free the key of a run, if it has one."""
        key = self._keys.pop(run_id, None)
        if key is not None:
            del self._runs[key]


class KeyClaims:
    """Keys in the service's Redis, each kept for ``seconds``. Every method blocks for a round trip."""

    def __init__(self, storage: Storage, seconds: float) -> None:
        self._storage = storage
        self._kept_ms = _milliseconds(seconds)

    def claim(self, wanted: Mapping[str, str]) -> dict[str, tuple[str, bool]]:
        """Return, for each key in ``wanted``, the run that has it, and whether that is settled.

        A key that nobody has is claimed for the run id it wants, to be settled within a minute.
        """
        found: list[bytes | str] = []
        for batch in _batches(wanted):
            pipe = self._storage.client.pipeline(transaction=False)
            for key, run_id in batch:
                pipe.eval(_CLAIM, 1, self._name(key), _CLAIMED + run_id, _milliseconds(CLAIM_SECONDS))
            found += pipe.execute()
        return {key: _read(stored) for key, stored in zip(wanted, found, strict=True)}

    def keep(self, claimed: Mapping[str, str], delay: float) -> None:
        """Settle claims: their runs were sent, to start in ``delay`` seconds."""
        for batch in _batches(claimed):
            pipe = self._storage.client.pipeline(transaction=False)
            for key, run_id in batch:
                kept_ms = self._kept_ms + _milliseconds(delay)
                pipe.eval(_KEEP, 1, self._name(key), _CLAIMED + run_id, run_id, kept_ms)
            pipe.execute()

    def free(self, claimed: Mapping[str, str]) -> None:
        """Take claims back: their runs were not sent."""
        for batch in _batches(claimed):
            pipe = self._storage.client.pipeline(transaction=False)
            for key, run_id in batch:
                pipe.eval(_FREE, 1, self._name(key), _CLAIMED + run_id)
            pipe.execute()

    def _name(self, key: str) -> str:
        return self._storage.key("once", key)


async def launch_once(
    claims: KeyClaims,
    wanted: Mapping[str, str],
    send: Callable[[frozenset[str]], Awaitable[object]],
    *,
    delay: float = 0.0,
) -> dict[str, str]:
    """Launch each run of ``wanted``, key to run id, unless its key has one; return each key's run.

    ``send(run_ids)`` sends those; its error means that none was. While somebody else is sending, this
    waits to see what comes of it, and never with a claim of its own in hand.
    """
    owners: dict[str, str] = {}
    left = dict(wanted)
    while True:
        found = await to_thread.run_sync(claims.claim, left)
        owners.update({key: run_id for key, (run_id, settled) in found.items() if settled})
        mine = {key: run_id for key, run_id in left.items() if found[key] == (run_id, False)}
        if mine:
            # Cancelled half-way, nobody would know whether they were sent.
            with anyio.CancelScope(shield=True):
                await _send(claims, mine, send, delay)
            owners.update(mine)
        left = {key: run_id for key, run_id in left.items() if key not in owners}
        if not left:
            return owners
        await anyio.sleep(POLL_SECONDS)


async def _send(
    claims: KeyClaims,
    mine: Mapping[str, str],
    send: Callable[[frozenset[str]], Awaitable[object]],
    delay: float,
) -> None:
    try:
        await send(frozenset(mine.values()))
    except BaseException:
        await to_thread.run_sync(claims.free, mine)
        raise
    await to_thread.run_sync(claims.keep, mine, delay)


def _batches(pairs: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    items = list(pairs.items())
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _read(stored: bytes | str) -> tuple[str, bool]:
    text = stored.decode() if isinstance(stored, bytes) else stored
    return text.removeprefix(_CLAIMED), not text.startswith(_CLAIMED)


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
