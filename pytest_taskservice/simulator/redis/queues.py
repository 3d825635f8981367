"""Lists of a server that is a simulated broker too: the queues that clients see who look there.

The broker keeps its messages itself. Who asks how long a queue is, reads or drops it, as monitors and tests
do, is answered as if they lay in the lists that kombu keeps on a real Redis.
"""
# ruff: noqa: SLF001 - the private parts that `quick` lists

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fakeredis._helpers import fix_range

from pytest_taskservice.simulator.redis.quick import QUICK, SLOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.simulator.redis.line import Line

__all__ = ["COMMANDS", "QueueLists"]


class QueueLists(Protocol):
    """The queues of the brokers that one server is, by the names of their lists."""

    def look(self, database: int, key: bytes) -> list[bytes]:
        """Return what a list holds, the newest message first; nothing if it is none."""

    def drop(self, database: int, key: bytes) -> bool:
        """Drop what it holds; return whether there was anything."""


def _llen(line: Line, arguments: list[bytes]) -> Any:
    return len(_queue(line, arguments, 1)) or SLOW


def _lindex(line: Line, arguments: list[bytes]) -> Any:
    queue = _queue(line, arguments, 2)
    if not queue:
        return SLOW
    index = int(arguments[1])
    return queue[index] if -len(queue) <= index < len(queue) else None


def _lrange(line: Line, arguments: list[bytes]) -> Any:
    queue = _queue(line, arguments, 3)
    if not queue:
        return SLOW
    first, end = fix_range(int(arguments[1]), int(arguments[2]), len(queue))
    return queue[first:end]


def _delete(line: Line, arguments: list[bytes]) -> Any:
    removed = QUICK["del"](line, arguments)
    lists = line._server.lists
    if removed is SLOW or lists is None:
        return removed
    return removed + sum(lists.drop(line._db_num, key) for key in arguments)


COMMANDS: dict[str, Callable[[Line, list[bytes]], Any]] = QUICK | {
    "del": _delete,
    "lindex": _lindex,
    "llen": _llen,
    "lrange": _lrange,
    "unlink": _delete,
}
"""What each command makes of its arguments, or ``SLOW``, as in ``QUICK``."""


def _queue(line: Line, arguments: list[bytes], number: int) -> list[bytes]:
    """Return the queue of that name, unless there is a list of its own, or anything is wrong."""
    lists = line._server.lists
    if lists is None or len(arguments) != number or arguments[0] in line._db._dict:
        return []
    if not all(word.lstrip(b"-").isdigit() for word in arguments[1:]):
        return []
    return lists.look(line._db_num, arguments[0])
