"""The broker's keys between two tests: what is cleared, what must stay, what is still waiting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

__all__ = ["clear", "waiting"]

# Which queue an exchange leads to: producers and workers wrote it once, and would not write it again.
_BINDINGS = "_kombu.binding."

# How kombu names the lists of one queue: the plain name, then one list a priority step.
_PRIORITY_SEPARATOR = "\x06\x16"
_PRIORITY_STEPS = (3, 6, 9)

_CLEAR = """
local cleared = 0
for _, key in ipairs(redis.call('KEYS', '*')) do
  if not string.find(key, ARGV[1], 1, true) then cleared = cleared + redis.call('UNLINK', key) end
end
return cleared
"""


def clear(client: redis.Redis, prefix: str) -> None:
    """Remove all messages and results: the whole database, or only what has ``prefix``.

    Without a prefix the server must be our own. The bindings stay.
    """
    if not prefix:
        client.eval(_CLEAR, 0, _BINDINGS)
        return

    keep = f"{prefix}{_BINDINGS}".encode()
    keys: list[Any] = [
        key for key in client.scan_iter(match=f"{prefix}*", count=1000) if not key.startswith(keep)
    ]
    if keys:
        client.unlink(*keys)


def waiting(client: redis.Redis, prefix: str, queues: Iterable[str]) -> int:
    """Return how many messages wait in ``queues``."""
    with client.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.llen(prefix + queue)
            for step in _PRIORITY_STEPS:
                pipeline.llen(f"{prefix}{queue}{_PRIORITY_SEPARATOR}{step}")
        return sum(pipeline.execute())
