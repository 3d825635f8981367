"""What a server tells of its keys: the events of ``notify-keyspace-events``, off until CONFIG SET.

fakeredis tells every write, configured or not, and no expiry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fakeredis._helpers import compile_pattern

if TYPE_CHECKING:
    from pytest_taskservice.simulator.redis.store import Store

__all__ = ["Announcements", "announce", "announce_expired"]

_KINDS = {"bytes": "$", "list": "l", "Hash": "h", "ZSet": "z", "XStream": "t", "ExpiringMembersSet": "s"}
_ALL = "g$lshztxe"
_SETTING = [b"set"]
_EXPIRING = [b"expire"]
# Commands whose events are not named after them.
_NAMES = {
    b"setex": [b"set", b"expire"], b"psetex": [b"set", b"expire"], b"setnx": _SETTING, b"getset": _SETTING,
    b"mset": _SETTING, b"msetnx": _SETTING, b"incr": [b"incrby"], b"decr": [b"incrby"],
    b"decrby": [b"incrby"], b"unlink": [b"del"], b"getdel": [b"del"], b"hmset": [b"hset"],
    b"hsetnx": [b"hset"], b"pexpire": _EXPIRING,
    b"expireat": _EXPIRING, b"pexpireat": _EXPIRING, b"blpop": [b"lpop"], b"brpop": [b"rpop"],
    b"lpushx": [b"lpush"], b"rpushx": [b"rpush"], b"zincrby": [b"zincr"],
}  # fmt: skip
_GENERIC = frozenset((b"del", b"expire", b"rename_from", b"rename_to", b"persist", b"copy_to", b"restore"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Announcements:
    """Which events are told: the value of ``notify-keyspace-events``."""

    kinds: frozenset[str] = frozenset()
    by_key: bool = False
    by_event: bool = False

    @classmethod
    def read(cls, flags: bytes) -> Announcements:
        """Read the flags as Redis does: without K or E nothing is told."""
        text = flags.decode("ascii", "replace").replace("A", _ALL)
        return cls(kinds=frozenset(text) & frozenset(_ALL + "nm"), by_key="K" in text, by_event="E" in text)

    @property
    def expired(self) -> bool:
        """Whether the end of keys is told."""
        return bool(self) and "x" in self.kinds

    def flags(self) -> bytes:
        """Return the flags, as CONFIG GET shows them."""
        kinds = "A" if frozenset(_ALL) <= self.kinds else "".join(sorted(self.kinds))
        return (kinds + "K" * self.by_key + "E" * self.by_event).encode()

    def __bool__(self) -> bool:
        return bool(self.kinds) and (self.by_key or self.by_event)


def announce(store: Store, number: int, items: list[Any], command: bytes) -> None:
    """Tell what a command has changed; ``items`` are fakeredis's ``CommandItem``."""
    if command.partition(b" ")[0] in {b"rename", b"renamenx"}:
        changed = [(items[0], b"rename_from"), (items[1], b"rename_to")]
    else:
        changed = [(item, event) for item in items for event in _NAMES.get(command, [command])]
    for item, event in changed:
        if not item.is_modified:
            continue
        kind = "g" if event in _GENERIC else _KINDS.get(type(item.value).__name__, "g")
        _tell(store, number, kind, event, item.key)


def announce_expired(store: Store, number: int, key: bytes) -> None:
    """Tell that a key has expired."""
    _tell(store, number, "x", b"expired", key)


def _tell(store: Store, number: int, kind: str, event: bytes, key: bytes) -> None:
    told = store.announces
    if kind not in told.kinds:
        return
    if told.by_key:
        _publish(store, b"__keyspace@%d__:%s" % (number, key), event)
    if told.by_event:
        _publish(store, b"__keyevent@%d__:%s" % (number, event), key)


def _publish(store: Store, channel: bytes, message: bytes) -> None:
    for listener in store.subscribers.get(channel, ()):
        listener.put_response([b"message", channel, message])
    for pattern, listeners in tuple(store.psubscribers.items()):
        if compile_pattern(pattern).match(channel):
            for listener in listeners:
                listener.put_response([b"pmessage", pattern, channel, message])
