"""Scripts of Celery's chords, stored results and redis-py's locks, read by us: the same commands, in order.

A script is known by its text. Any other runs in fakeredis, as the app's own scripts do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from fakeredis._helpers import SimpleError

from pytest_taskservice.simulator.redis.quick import SLOW

if TYPE_CHECKING:
    from pytest_taskservice.simulator.redis.line import Line

__all__ = ["KnownScript", "digest_of", "known_script", "script_of"]

# ``SLOW`` is returned before anything has changed: what is stored is not what the script is for.
KnownScript = Callable[["Line", list[bytes], list[bytes]], Any]


@lru_cache
def known_script(text: str | bytes) -> KnownScript | None:
    """Return what does the same as a script; ``None`` if it is one of somebody else's."""
    return script_of(digest_of(text if isinstance(text, bytes) else text.encode()))


def digest_of(text: bytes) -> bytes:
    """Return the name that Redis gives to a script."""
    return sha1(text, usedforsecurity=False).hexdigest().encode()


def script_of(digest: bytes) -> KnownScript | None:
    """Return what does the same as the script of that name, if it is known."""
    return _SCRIPTS.get(digest)


def _part_return(line: Line, keys: list[bytes], arguments: list[bytes]) -> Any:
    jkey, tkey, skey, dkey, gkey, ckey = keys
    tid, value, ordered, score, expires, group_expires, claim_expires, claim_token = arguments
    call = line.call
    if call(b"GET", ckey) == b"done":
        return [-1, 0, 0, 0]
    member = tid + b":" + score
    if not call(b"SISMEMBER", dkey, member):
        if ordered == b"1":
            call(b"ZADD", jkey, score, value)
        else:
            call(b"RPUSH", jkey, value)
        call(b"SADD", dkey, member)
    count = call(b"ZCOUNT", jkey, b"-inf", b"+inf") if ordered == b"1" else call(b"LLEN", jkey)
    if float(expires) > 0:
        for key in (jkey, tkey, skey, dkey):
            call(b"EXPIRE", key, expires)
        if float(group_expires) > 0:
            call(b"EXPIRE", gkey, group_expires)
    difference, size = call(b"GET", tkey), call(b"GET", skey)
    claimed = 0
    complete = size is not None and count == float(size) + float(difference or 0)
    if complete and call(b"SET", ckey, claim_token, b"NX", b"EX", claim_expires) is not None:
        claimed = 1
    return [count, difference, size, claimed]


def _cleanup(line: Line, keys: list[bytes], arguments: list[bytes]) -> Any:
    ckey, *others = keys
    token, expires = arguments
    if line.call(b"GET", ckey) != token:
        return 0
    line.call(b"DEL", *others)
    if float(expires) > 0:
        line.call(b"SET", ckey, b"done", b"EX", expires)
    return 1


def _extend_claim(line: Line, keys: list[bytes], arguments: list[bytes]) -> Any:
    ckey, skey = keys
    token, expires = arguments
    owner = line.call(b"GET", ckey)
    if owner == token:
        return line.call(b"EXPIRE", ckey, expires)
    if owner is None and line.call(b"EXISTS", skey) == 1:
        return 0 if line.call(b"SET", ckey, token, b"EX", expires, b"NX") is None else 1
    return 0


# As the script looks for it.
_STATUS = re.compile(rb'{"status": "([A-Z]+)"')


def _write_results(line: Line, keys: list[bytes], arguments: list[bytes]) -> Any:
    channel, seconds, kept, *values = arguments
    call = line.call
    try:
        before = [call(b"GET", key) for key in keys]
    except SimpleError:
        return SLOW
    found = [_STATUS.match(value) if value is not None else None for value in before]
    unread = any(value and not status for value, status in zip(before, found, strict=True))
    if unread or not seconds.isdigit() or len(set(keys)) < len(keys) or len(values) != len(keys):
        return SLOW
    life = [] if seconds == b"0" else [b"EX", seconds]
    told = []
    for key, value, status in zip(keys, values, found, strict=True):
        if status is None or b"|%b|" % status[1] not in kept:
            call(b"SET", key, value, *life)
            call(b"PUBLISH", key, value)
            told.append(value)
    if channel and told:
        call(b"PUBLISH", channel, b"[%b]" % b",".join(told))
    return None


def _release(line: Line, keys: list[bytes], arguments: list[bytes]) -> Any:
    if line.call(b"GET", keys[0]) != arguments[0]:
        return 0
    line.call(b"DEL", keys[0])
    return 1


def _extend(line: Line, keys: list[bytes], arguments: list[bytes]) -> Any:
    token, more, replaces = arguments
    if line.call(b"GET", keys[0]) != token:
        return 0
    left = line.call(b"PTTL", keys[0])
    if left < 0:
        return 0
    line.call(b"PEXPIRE", keys[0], b"%d" % (int(more) + left) if replaces == b"0" else more)
    return 1


def _reacquire(line: Line, keys: list[bytes], arguments: list[bytes]) -> Any:
    if line.call(b"GET", keys[0]) != arguments[0]:
        return 0
    line.call(b"PEXPIRE", keys[0], arguments[1])
    return 1


_SCRIPTS: dict[bytes, KnownScript] = {
    b"b8fc152c83a7e634103ccebd49dcd3146a8f4366": _part_return,
    b"59d7aab41242d82196947ba8926cab712416da4f": _cleanup,
    b"dc87180d6bcb7f73c7275eb0fe7a70baf0a8b7c7": _extend_claim,
    b"6e15e7795477d4a844b38666025ae985a9248236": _write_results,
    b"c3f8721cbb97f72bc19e972846bd7aaf91901658": _release,
    b"a4e8783852e6b949f9ef3a97212805108459a890": _extend,
    b"1cac51482acf5858da00f6d685d68f886cd6b6b2": _reacquire,
}
