"""Where the service keeps what is its own and not Celery's: one Redis, keys under one prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celery.backends.redis import RedisBackend

from taskservice.backends.probing import REDIS_TRANSPORTS, connect_redis, first_broker_url
from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery
    from redis import Redis

    from taskservice.settings import Settings

__all__ = ["Storage", "open_storage"]

SECONDS: Final = 5.0
"""How long one exchange may take."""
PREFIX: Final = "taskservice:"


class Storage:
    """A Redis client and the prefix of every key; it may be shared by threads."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self.client = client
        self._prefix = prefix

    def key(self, *parts: str) -> str:
        """Return the key for ``parts``: ``taskservice:dead:letters``."""
        return self._prefix + ":".join(parts)

    def close(self) -> None:
        """Give the connections back; a later use opens new ones."""
        self.client.close()


def open_storage(app: Celery, settings: Settings | None, wanted_for: str) -> Storage:
    """Return the storage of ``settings``, or else of the app's result backend or broker.

    No connection is made yet. `ConfigurationError`, which names ``wanted_for``, if none is a Redis.
    """
    if settings is not None:
        return Storage(connect_redis(settings.redis_url, SECONDS), settings.key_prefix)

    results: Any = app.backend
    if isinstance(results, RedisBackend):
        # Its own settings hold there: TLS, sentinels, passwords.
        return Storage(results.client, _below(app.conf.result_backend_transport_options))
    with app.connection_for_write() as connection:
        if connection.transport_cls in REDIS_TRANSPORTS - {"sentinel"}:
            client = connect_redis(first_broker_url(app), SECONDS)
            return Storage(client, _below(app.conf.broker_transport_options))

    raise ConfigurationError(
        f"{wanted_for} need a Redis: give CeleryBackend settings with a redis_url; "
        "neither broker nor result backend of this app is one"
    )


def _below(transport_options: Mapping[str, Any]) -> str:
    # Who shares a server gives Celery's keys a prefix, and means ours as well.
    return f"{transport_options.get('global_keyprefix', '')}{PREFIX}"
