"""The commands that every task runs, done without fakeredis's dispatch, which costs ten times as much.

Each does what fakeredis does, to the byte, or returns ``SLOW`` before it has changed anything, and
fakeredis does it: unusual options, a wrong type, a wrong number of arguments. Expired keys are fakeredis's
to remove.

Leans on fakeredis's ``Database``: ``_dict`` of ``Item``, ``_watches``, ``_change_callbacks``,
``schedule_expiry``; on what ``FakeSocket`` keeps of a transaction and of subscriptions.
:func:`check_seams` fails once one of them is gone.
"""
# ruff: noqa: SLF001 - these private parts are listed above, and checked below

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fakeredis._core._database import Database, Item
from fakeredis._helpers import OK, SimpleString, compile_pattern
from fakeredis.model import ExpiringMembersSet, ZSet

from pytest_taskservice.errors import SimulationError

if TYPE_CHECKING:
    from pytest_taskservice.simulator.redis.line import Line

__all__ = ["QUICK", "SLOW", "check_seams"]

SLOW: Any = object()
"""Nothing was done: let fakeredis do it."""

_MOST_SECONDS = 10**10
_MOST_INTEGER = 2**63


def _item(line: Line, key: bytes) -> Any:
    """Return the stored item, ``None`` without one, ``SLOW`` if it has expired."""
    item = line._db._dict.get(key)
    if item is not None and item.expireat is not None and item.expireat < line._server.simulation.now():
        return SLOW
    return item


def _put(line: Line, key: bytes, value: bytes, expireat: float | None) -> None:
    data = line._db
    item = data._dict.get(key)
    if item is None:
        item = data._dict[key] = Item(value)
    item.value = value
    item.expireat = expireat
    if expireat is not None:
        data.schedule_expiry(key, expireat)
    _touched(data, key)


def _touched(data: Any, key: bytes) -> None:
    if data._watches:
        for watcher in data._watches.get(key, ()):
            watcher.notify_watch()
    for callback in data._change_callbacks:
        callback()


def _number(text: bytes, most: int) -> int:
    """Return a positive integer written as Redis wants it; 0 for anything else."""
    if len(text) > 18 or not text.isdigit() or text[:1] == b"0":
        return 0
    number = int(text)
    return number if number <= most else 0


def _get(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 1:
        return SLOW
    item = _item(line, arguments[0])
    if item is None or item is SLOW:
        return item
    value = item.value
    return value if type(value) is bytes else SLOW


def _mget(line: Line, arguments: list[bytes]) -> Any:
    if not arguments:
        return SLOW
    found = [_item(line, key) for key in arguments]
    if SLOW in found:
        return SLOW
    values = [None if item is None else item.value for item in found]
    return [value if type(value) is bytes else None for value in values]


def _set(line: Line, arguments: list[bytes]) -> Any:
    count = len(arguments)
    if count == 2:
        _put(line, arguments[0], arguments[1], None)
        return OK
    if count == 5 and arguments[2].upper() == b"NX":
        item = _item(line, arguments[0])
        if item is not None:
            return SLOW
        arguments = [*arguments[:2], *arguments[3:]]
    elif count != 4:
        return SLOW
    unit = arguments[2].upper()
    if unit not in _UNITS:
        return SLOW
    amount = _number(arguments[3], _MOST_SECONDS)
    if not amount:
        return SLOW
    now = line._server.simulation.now()
    _put(line, arguments[0], arguments[1], now + (amount if unit == b"EX" else amount / 1000.0))
    return OK


def _setex(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 3:
        return SLOW
    seconds = _number(arguments[1], _MOST_SECONDS)
    if not seconds:
        return SLOW
    _put(line, arguments[0], arguments[2], line._server.simulation.now() + seconds)
    return OK


def _expire(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 2:
        return SLOW
    seconds = _number(arguments[1], _MOST_SECONDS)
    item = _item(line, arguments[0])
    if not seconds or item is SLOW:
        return SLOW
    if item is None:
        return 0
    item.expireat = line._server.simulation.now() + seconds
    line._db.schedule_expiry(arguments[0], item.expireat)
    _touched(line._db, arguments[0])
    return 1


def _delete(line: Line, arguments: list[bytes]) -> Any:
    if not arguments or any(_item(line, key) is SLOW for key in arguments):
        return SLOW
    data = line._db
    removed = 0
    for key in arguments:
        if data._dict.pop(key, None) is not None:
            removed += 1
            _touched(data, key)
    return removed


def _exists(line: Line, arguments: list[bytes]) -> Any:
    if not arguments:
        return SLOW
    found = [_item(line, key) for key in arguments]
    return SLOW if SLOW in found else len(found) - found.count(None)


def _add(line: Line, key: bytes, amount: int) -> Any:
    item = _item(line, key)
    if item is SLOW:
        return SLOW
    if item is None:
        _put(line, key, b"%d" % amount, None)
        return amount
    value = item.value
    if type(value) is not bytes or len(value) > 18 or not value.lstrip(b"-").isdigit():
        return SLOW
    total = int(value) + amount
    if b"%d" % int(value) != value or not -_MOST_INTEGER <= total < _MOST_INTEGER:
        return SLOW
    item.value = b"%d" % total
    _touched(line._db, key)
    return total


def _incr(line: Line, arguments: list[bytes]) -> Any:
    return _add(line, arguments[0], 1) if len(arguments) == 1 else SLOW


def _incrby(line: Line, arguments: list[bytes]) -> Any:
    amount = _number(arguments[1], _MOST_INTEGER) if len(arguments) == 2 else 0
    return _add(line, arguments[0], amount) if amount else SLOW


def _sismember(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 2:
        return SLOW
    found = _collection(line, arguments[0], ExpiringMembersSet)
    return found if found is SLOW else int(found is not None and arguments[1] in found)


def _sadd(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 2:
        return SLOW
    key, member = arguments
    found = _collection(line, key, ExpiringMembersSet)
    if found is SLOW:
        return SLOW
    if found is None:
        found = line._db._dict.setdefault(key, Item(ExpiringMembersSet())).value
    before = len(found)
    found.update((member,))
    _touched(line._db, key)
    return len(found) - before


def _zadd(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 3 or not _SCORE.fullmatch(arguments[1]):
        return SLOW
    key, score, member = arguments
    found = _collection(line, key, ZSet)
    if found is SLOW:
        return SLOW
    if found is None:
        found = line._db._dict.setdefault(key, Item(ZSet())).value
    before = len(found)
    if found.add(member, float(score)):
        _touched(line._db, key)
    return len(found) - before


def _zcount(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 3 or arguments[1:] != _ALL_SCORES:
        return SLOW
    found = _collection(line, arguments[0], ZSet)
    return found if found is SLOW else 0 if found is None else len(found)


def _zrange(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 3 or arguments[1:] != _ALL_RANKS:
        return SLOW
    found = _collection(line, arguments[0], ZSet)
    return found if found is SLOW else [] if found is None else list(found)


def _collection(line: Line, key: bytes, kind: type) -> Any:
    """Return what is stored if it is of a ``kind``, ``None`` without it; ``SLOW`` for anything else."""
    item = _item(line, key)
    if item is None or item is SLOW:
        return item
    return item.value if type(item.value) is kind else SLOW


def _publish(line: Line, arguments: list[bytes]) -> Any:
    if len(arguments) != 2:
        return SLOW
    channel, message = arguments
    server = line._server
    receivers = 0
    crowd = server.subscribers.get(channel)
    if crowd:
        for listener in crowd:
            listener.put_response([b"message", channel, message])
            receivers += 1
    for pattern, listeners in tuple(server.psubscribers.items()):
        if compile_pattern(pattern).match(channel):
            for listener in listeners:
                listener.put_response([b"pmessage", pattern, channel, message])
                receivers += 1
    return receivers


def _multi(line: Line, arguments: list[bytes]) -> Any:
    if arguments or line._transaction is not None:
        return SLOW
    line._transaction = []
    line._transaction_failed = False
    return OK


def _ping(line: Line, arguments: list[bytes]) -> Any:
    return _PONG if not arguments else SLOW


_UNITS = frozenset((b"EX", b"PX"))
_SCORE = re.compile(rb"[1-9]\d{0,14}|0")
_ALL_SCORES = [b"-inf", b"+inf"]
_ALL_RANKS = [b"0", b"-1"]
_PONG = SimpleString(b"PONG")

QUICK: dict[str, Callable[[Line, list[bytes]], Any]] = {
    "del": _delete,
    "exists": _exists,
    "expire": _expire,
    "get": _get,
    "incr": _incr,
    "incrby": _incrby,
    "mget": _mget,
    "multi": _multi,
    "ping": _ping,
    "publish": _publish,
    "sadd": _sadd,
    "set": _set,
    "setex": _setex,
    "sismember": _sismember,
    "unlink": _delete,
    "zadd": _zadd,
    "zcount": _zcount,
    "zrange": _zrange,
}


def check_seams() -> None:
    """Raise :class:`SimulationError` if a place that this module reaches into is gone."""
    data = Database(None)
    gone = [
        name
        for name in ("_dict", "_watches", "_change_callbacks", "_expiry_heap", "schedule_expiry", "time")
        if not hasattr(data, name)
    ]
    gone += [name for name in ("value", "expireat") if not hasattr(Item(b""), name)]
    if gone:
        raise SimulationError(
            f"fakeredis {version('fakeredis')} has no {', '.join(gone)} any more; install fakeredis 2.40.0"
        )
