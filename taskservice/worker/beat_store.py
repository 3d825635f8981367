"""What a beat leaves in Redis: who leads, and when each entry was last due.

Every write is fenced by the lock, in one script: who has lost it changes nothing any more.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from json import dumps, loads
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from taskservice.backends.storage import Storage

__all__ = ["BeatStore", "Hold", "Remembered"]

# KEYS: lock. ARGV: token, lease in milliseconds. Returns the owner, and 1 if that is new.
HOLD: Final = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {owner, 0}
end
if owner then
  return {owner, 0}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {ARGV[1], 1}
"""
# KEYS: lock, entries. ARGV: token, lease, then name and value in turn, an empty value deletes.
WRITE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for at = 3, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[at])
  else
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  end
end
return 1
"""
RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Who leads after asking for the lock, and whether that is us and news."""

    owner: str
    ours: bool
    taken: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """When an entry was last due, and how often it was sent."""

    last: datetime
    runs: int

    def to_json(self) -> str:
        """Return it as it is stored."""
        return dumps({"last": self.last.astimezone(UTC).isoformat(), "runs": self.runs})

    @classmethod
    def from_json(cls, stored: str | bytes) -> Remembered:
        """Read what `to_json` wrote; `ValueError` for anything else."""
        try:
            data: dict[str, Any] = loads(stored)
            return cls(last=datetime.fromisoformat(data["last"]).astimezone(UTC), runs=int(data["runs"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a beat's memory: {stored!r}") from error


class BeatStore:
    """One beat's view of the lock and of the entries; redis-py's errors come through."""

    def __init__(self, storage: Storage, *, lease: timedelta) -> None:
        self.token = f"{socket.gethostname()}:{os.getpid()}:{uuid4()}"
        self.entries_key = storage.key("beat", "entries")
        self.lock_key = storage.key("beat", "lock")
        self._storage = storage
        self._lease_ms = max(1, int(lease.total_seconds() * 1000))
        self._hold = storage.client.register_script(HOLD)
        self._write = storage.client.register_script(WRITE)
        self._release = storage.client.register_script(RELEASE)

    def hold(self) -> Hold:
        """Take the lock if it is free, renew it if it is ours, and say whose it is."""
        owner, taken = self._hold(keys=[self.lock_key], args=[self.token, self._lease_ms])
        name = owner.decode() if isinstance(owner, bytes) else str(owner)
        return Hold(owner=name, ours=name == self.token, taken=bool(taken))

    def read(self) -> dict[str, Remembered]:
        """Return what is remembered of each entry; rubbish is taken for nothing."""
        stored: Any = self._storage.client.hgetall(self.entries_key)
        found = {}
        for name, value in stored.items():
            with suppress(ValueError):
                found[name.decode() if isinstance(name, bytes) else str(name)] = Remembered.from_json(value)
        return found

    def write(self, changed: Mapping[str, Remembered], removed: Iterable[str] = ()) -> bool:
        """Remember and forget, all or nothing, and renew the lock; false, and nothing, if it is not ours."""
        args: list[str | int] = [self.token, self._lease_ms]
        for name, remembered in changed.items():
            args += [name, remembered.to_json()]
        for name in removed:
            args += [name, ""]
        return bool(self._write(keys=[self.lock_key, self.entries_key], args=args))

    def release(self) -> None:
        """Give the lock to whoever comes next; if Redis is away it expires by itself."""
        with suppress(RedisError, OSError):
            self._release(keys=[self.lock_key], args=[self.token])
        self._storage.close()
