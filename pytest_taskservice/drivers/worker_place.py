"""Where a real world's messages and results lie: the session's Redis, or one that may be broken.

For faults of connections there is a proxy before it, with a door for the test, the beat and each worker. For
faults of the Redis itself there is one of our own behind the proxy, from the session's binary. Somebody
else's is never broken, only the way to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pytest_taskservice.drivers import keys
from pytest_taskservice.drivers.base import Outcome
from pytest_taskservice.drivers.celery_app import outcome_from
from pytest_taskservice.faults.proxy import Proxy
from pytest_taskservice.faults.redis import MortalRedis
from taskservice.programs import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis
    from celery import Celery

    from pytest_taskservice.redis import RedisServer
    from taskservice.reaper import Reaper

__all__ = ["Place", "breakable", "no_connection_faults", "no_redis_faults"]

_PROVIDERS = ("server", "embedded")
_PORT = 6379
# How long the harness itself waits for an answer that a fault may keep back.
_PATIENCE = 1.0


def no_connection_faults(server: RedisServer) -> str | None:
    """Return why no proxy can stand before ``server``."""
    scheme = urlsplit(server.url).scheme
    return None if scheme == "redis" else f"no proxy can stand before a {scheme}:// URL"


def no_redis_faults(server: RedisServer) -> str | None:
    """Return why a story can have no Redis of its own like ``server`` that may be killed."""
    if server.provider in _PROVIDERS:
        return None
    what = (
        "is somebody else's" if server.provider == "url" else "cannot be killed and come back with its data"
    )
    return f"the Redis of the provider {server.provider!r} {what}; use --taskservice-redis=embedded"


def breakable(server: RedisServer, prefix: str, *, reaper: Reaper) -> Place:
    """Return a place for stories with faults, as breakable as ``server`` allows."""
    mortal = None if no_redis_faults(server) else MortalRedis(server.provider, reaper=reaper)
    if mortal is not None:
        return Place(
            f"redis://{LOOPBACK}:{mortal.port}/0", "", mortal=mortal, proxy=Proxy(LOOPBACK, mortal.port)
        )
    if no_connection_faults(server):
        return Place(server.url, prefix)
    parts = urlsplit(server.url)
    return Place(server.url, prefix, proxy=Proxy(parts.hostname or LOOPBACK, parts.port or _PORT))


class Place:
    """One Redis, the keys in it that are ours, and the ways to it."""

    def __init__(
        self, url: str, prefix: str, *, mortal: MortalRedis | None = None, proxy: Proxy | None = None
    ) -> None:
        self.prefix = prefix
        self.mortal = mortal
        self.proxy = proxy
        self._url = url
        self._redis: redis.Redis | None = None
        self._known: dict[str, Outcome] = {}

    def url(self, who: str) -> str:
        """Return the URL by which ``who`` reaches the Redis: the test, ``beat`` or a worker's name."""
        if self.proxy is None:
            return self._url
        parts = urlsplit(self._url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}{LOOPBACK}:{self.proxy.door(who)}"))

    def client(self) -> redis.Redis:
        """Return the harness's own client: what breaks the ways of others does not break its."""
        if self._redis is None:
            import redis

            waits = {} if self.proxy is None else {"socket_timeout": _PATIENCE}
            self._redis = redis.Redis.from_url(self._url, **waits)
        return self._redis

    def clear(self) -> None:
        """Remove all messages and results."""
        keys.clear(self.client(), self.prefix)

    def waiting(self, queues: Iterable[str]) -> int:
        """Return how many messages wait in ``queues``."""
        return keys.waiting(self.client(), self.prefix, queues)

    def unacknowledged(self) -> int:
        """Return how many messages are delivered and not acknowledged."""
        found: Any = self.client().hlen(f"{self.prefix}unacked")
        return int(found)

    def outcome_of(self, app: Celery, run_id: str) -> Outcome:
        """Return where a run stands, read past the proxy; what was read last while a fault prevents it."""
        from redis.exceptions import RedisError

        backend: Any = app.backend
        try:
            stored: Any = self.client().get(backend.get_key_for_task(run_id))
        except (RedisError, OSError):
            return self._known.get(run_id, Outcome(status="PENDING"))
        self._known[run_id] = outcome = outcome_from(app, stored)
        return outcome

    def close(self) -> None:
        """End what is our own; may be called twice."""
        if self._redis is not None:
            self._redis.close()
            self._redis = None
        if self.proxy is not None:
            self.proxy.close()
        if self.mortal is not None:
            self.mortal.close()
