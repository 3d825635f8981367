"""What may be deleted: all on a server we started, only our own prefix on one we were given."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.redis.url import shown
from pytest_taskservice.redis.wire import call
from taskservice.reaper import delete_keys

if TYPE_CHECKING:
    from pytest_taskservice.redis.base import RedisServer

__all__ = ["clear_keys", "flush"]

TIMEOUT = 5.0


def clear_keys(url: str, prefix: str) -> int:
    """Delete every key that begins with ``prefix``; return how many there were.

    An empty prefix is a ``ValueError``: it would name every key of a server that is not ours. Keys
    are found page by page, so a key written meanwhile may stay.
    """
    return delete_keys(url, prefix, timeout=TIMEOUT)


def flush(server: RedisServer) -> None:
    """Delete everything on a server that we started; any other is refused."""
    if not server.owned:
        raise RedisProviderError(
            f"refusing to flush {shown(server.url)}, which was given to us; clear a key prefix instead"
        )

    address = urlsplit(server.url)
    try:
        call(address.hostname or "", address.port or 0, "FLUSHALL", timeout=TIMEOUT)
    except OSError as error:
        raise RedisProviderError(f"cannot flush {server.url}: {error}") from error
