"""fakeredis: no server at all, but its answers, in this process and over TCP.

It is the last resort of ``auto`` and not a real server. Known limits:

- It lives in the test process: it dies with it, and slows down while a test computes.
- The keyspace follows the wall clock of this process, so a moved clock moves expiry too; blocking
  commands keep real time.
- INFO and OBJECT answer what clients look at, not a server's statistics; the in-process client of
  fakeredis has neither. CONFIG GET, DEBUG, MEMORY, MONITOR, replication and cluster commands are
  missing.
- A RESP3 connection with a subscription may run no other commands.
- Inline requests are split at blanks; quotes have no meaning there.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.redis.base import RedisRequest, RedisServer
from taskservice.programs import LOOPBACK

if TYPE_CHECKING:
    from fakeredis import FakeServer
    from redis import Redis

__all__ = ["in_process_client", "start_fake"]


def start_fake(request: RedisRequest) -> RedisServer:
    """Serve a fakeredis on a port of the loopback, for workers in other processes."""
    _need_fakeredis()
    if importlib.util.find_spec("lupa") is None:
        from pytest_taskservice.redis.mended import NO_LUA

        # Tasks may do without, but not what stands around them on a real worker.
        raise RedisProviderError(f"{NO_LUA}; or use --taskservice-redis=embedded")
    try:
        from pytest_taskservice.redis.fake_tcp import FakeTcpServer
    except ImportError as error:
        raise RedisProviderError(
            f"fakeredis {version('fakeredis')} has changed: {error}; "
            "install fakeredis 2.40.0 or use --taskservice-redis=embedded"
        ) from error

    server = FakeTcpServer(timeout=request.timeout)
    return RedisServer(
        url=f"redis://{LOOPBACK}:{server.port}/0",
        provider="fake",
        version=f"fakeredis {version('fakeredis')} (not a real server)",
        owned=True,
        _closers=[server.close],
    )


def in_process_client(store: FakeServer | None = None) -> Redis:
    """Return a client that reaches ``store``, or a store of its own, without any socket."""
    _need_fakeredis()
    import fakeredis

    client: Redis = fakeredis.FakeRedis(server=store or fakeredis.FakeServer(version=(7, 4)))
    return client


def _need_fakeredis() -> None:
    if importlib.util.find_spec("fakeredis") is None:
        raise RedisProviderError(
            "fakeredis is not installed; install 'taskservice[pytest]' or use --taskservice-redis=server"
        )
