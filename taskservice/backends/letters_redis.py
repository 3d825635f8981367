"""Dead letters in Redis: what a worker writes and a client reads, each change in one step.

Three keys: the letters by run id, an order of the ids by the instant at which each letter is over, and, per
run, how often a worker died with it. Instants are arguments: Redis's own clock is never asked.
"""

# ruff: noqa: D102 - LetterStore documents what a store does

from __future__ import annotations

from datetime import timedelta
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar
from uuid import uuid4

from anyio import to_thread
from kombu.utils.json import dumps, loads
from redis.exceptions import RedisError

from taskservice.deadletters import DeadLetter
from taskservice.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskservice.backends.storage import Storage

__all__ = ["RedisLetters", "SharedLetters"]

P = ParamSpec("P")
R = TypeVar("R")

CHUNK: Final = 100
CLAIM_SECONDS: Final = 60.0
"""How long a claim lasts: sending one message takes less."""

_FORGET = """
local function forget(ids)
    for _, id in ipairs(ids) do
        redis.call('HDEL', KEYS[2], id)
        redis.call('ZREM', KEYS[1], id)
    end
end
"""
# KEYS: order, letters, deaths of the run. ARGV: id, letter, instant it is over, now, count, milliseconds.
_ADD: Final = (
    _FORGET
    + """
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('DEL', KEYS[3])
forget(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4]))
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[5])
if over > 0 then forget(redis.call('ZRANGE', KEYS[1], 0, over - 1)) end
for i = 1, 2 do
    if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[i], ARGV[6]) end
end
"""
)
# KEYS: order, letters. ARGV: id, now. A letter that is over is not there.
_TAKE: Final = """
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local found = redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return (found == 1 and ends and tonumber(ends) > tonumber(ARGV[2])) and 1 or 0
"""
# KEYS: order, letters, claim, deaths. ARGV: id, now, token, milliseconds.
_CLAIM: Final = """
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) <= tonumber(ARGV[2]) then return false end
if not redis.call('SET', KEYS[3], ARGV[3], 'NX', 'PX', ARGV[4]) then return false end
redis.call('DEL', KEYS[4])
return redis.call('HGET', KEYS[2], ARGV[1])
"""
# KEYS: order, letters, claim. ARGV: id, token, the letter that was requeued, or nothing.
_SETTLE: Final = """
if redis.call('GET', KEYS[3]) == ARGV[2] then redis.call('DEL', KEYS[3]) end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[3] then
    redis.call('HDEL', KEYS[2], ARGV[1])
    redis.call('ZREM', KEYS[1], ARGV[1])
end
"""


class RedisLetters:
    """The letters behind one prefix; it blocks, and redis-py's errors come through.

    ``count`` and ``seconds`` bound what is kept; they are the writer's, a reader needs none.
    """

    def __init__(self, storage: Storage, *, count: int = 0, seconds: float = 0.0) -> None:
        self._storage = storage
        self._count = count
        self._seconds = seconds
        self._order = storage.key("dead", "order")
        self._letters = storage.key("dead", "letters")
        register = storage.client.register_script
        self._add, self._take = register(_ADD), register(_TAKE)
        self._claim, self._settle = register(_CLAIM), register(_SETTLE)

    def add(self, letter: DeadLetter) -> None:
        """Keep ``letter``, and forget what is too much or too old."""
        self._add(
            keys=[self._order, self._letters, self._deaths(letter.id)],
            args=[
                letter.id,
                dumps(letter.to_json()),
                letter.at + self._seconds,
                time(),
                self._count,
                max(1, int(self._seconds * 1000)),
            ],
        )

    def list(self, limit: int, task: str | None) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        start, now = 0, time()
        while len(found) < limit:
            ids = self._client.zrange(
                self._order, "+inf", f"({now}", desc=True, byscore=True, offset=start, num=CHUNK
            )
            if not ids:
                break
            start += CHUNK
            # One may have been taken in between.
            letters = [_read(stored) for stored in self._client.hmget(self._letters, ids) if stored]
            found += [letter for letter in letters if task in {None, letter.task}]
        return found[:limit]

    def get(self, run_id: str) -> DeadLetter | None:
        pipeline = self._client.pipeline()
        pipeline.zscore(self._order, run_id)
        pipeline.hget(self._letters, run_id)
        ends, stored = pipeline.execute()
        return _read(stored) if stored is not None and ends is not None and ends > time() else None

    def drop(self, run_id: str) -> bool:
        return bool(self._take(keys=[self._order, self._letters], args=[run_id, time()]))

    def count(self) -> int:
        return int(self._client.zcount(self._order, f"({time()}", "+inf"))

    def claim(self, run_id: str, token: str) -> str | None:
        """Return the letter as it is stored, if nobody else has a claim on it."""
        found = self._claim(
            keys=[self._order, self._letters, self._claim_key(run_id), self._deaths(run_id)],
            args=[run_id, time(), token, int(CLAIM_SECONDS * 1000)],
        )
        return None if found is None else str(found.decode())

    def settle(self, run_id: str, token: str, requeued: str = "") -> None:
        """Give a claim back and forget the letter that was ``requeued``, but not a newer one."""
        keys = [self._order, self._letters, self._claim_key(run_id)]
        self._settle(keys=keys, args=[run_id, token, requeued])

    def deaths(self, run_id: str) -> int:
        """Return how often a worker died with this run."""
        return int(self._client.get(self._deaths(run_id)) or 0)

    def count_death(self, run_id: str, by: int = 1) -> int:
        """Count one more, or one less, and return how many there are."""
        key = self._deaths(run_id)
        pipeline = self._client.pipeline()
        pipeline.incr(key, by)
        pipeline.pexpire(key, timedelta(seconds=self._seconds))
        return int(pipeline.execute()[0])

    @property
    def _client(self) -> Any:
        # redis-py's annotations are of its two clients in one.
        return self._storage.client

    def _deaths(self, run_id: str) -> str:
        return self._storage.key("dead", "deaths", run_id)

    def _claim_key(self, run_id: str) -> str:
        return self._storage.key("dead", "claim", run_id)


class SharedLetters:
    """A `LetterStore` over `RedisLetters`: each call in a thread, errors in our words."""

    def __init__(self, letters: RedisLetters) -> None:
        self._letters = letters
        self._claims: dict[str, tuple[str, str]] = {}

    async def list(self, limit: int, task: str | None) -> list[DeadLetter]:
        return await _in_thread(self._letters.list, limit, task)

    async def get(self, run_id: str) -> DeadLetter | None:
        return await _in_thread(self._letters.get, run_id)

    async def drop(self, run_id: str) -> bool:
        return await _in_thread(self._letters.drop, run_id)

    async def count(self) -> int:
        return await _in_thread(self._letters.count)

    async def claim(self, run_id: str) -> DeadLetter | None:
        token = str(uuid4())
        stored = await _in_thread(self._letters.claim, run_id, token)
        if stored is None:
            return None

        self._claims[run_id] = (token, stored)
        return _read(stored)

    async def settle(self, letter: DeadLetter, *, requeued: bool) -> None:
        token, stored = self._claims.pop(letter.id)
        await _in_thread(self._letters.settle, letter.id, token, stored if requeued else "")


async def _in_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return await to_thread.run_sync(partial(call, *args, **kwargs))
    except (RedisError, OSError) as error:
        raise BackendUnavailableError("celery", f"its dead letters are out of reach: {error}") from error


def _read(stored: str | bytes) -> DeadLetter:
    return DeadLetter.from_json(loads(stored))
