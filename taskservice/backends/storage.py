"""Where the service keeps what is its own and not Celery's: one Redis, keys under one prefix.

The place belongs to the app, in its configuration, so that clients, workers, beat and command line of
one app meet there: whatever settings each of them was given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celery.backends.redis import RedisBackend

from taskservice.backends.configuration import KEY_PREFIX, REDIS_URL
from taskservice.backends.probing import REDIS_TRANSPORTS, connect_redis, first_broker_url
from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery
    from redis import Redis

    from taskservice.settings import Settings

__all__ = ["Storage", "locate_storage", "open_storage"]

SECONDS: Final = 5.0
"""How long one exchange may take."""
PREFIX: Final = "taskservice:"
_FIELDS: Final = {"redis_url": REDIS_URL, "key_prefix": KEY_PREFIX}


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


def locate_storage(app: Celery, settings: Settings | None) -> None:
    """Have the storage of ``app`` where ``settings`` say, if they say it and nobody has before."""
    if settings is None:
        return

    for field, name in _FIELDS.items():
        if field in settings.model_fields_set and not app.conf.get(name):
            app.conf.update({name: getattr(settings, field)})


def open_storage(app: Celery, wanted_for: str, *, seconds: float = SECONDS) -> Storage:
    """Return the storage of ``app``: where its configuration says, else with its results or its messages.

    No connection is made yet; each exchange takes ``seconds`` at most, unless the connections are those
    of the app's results. `ConfigurationError`, which names ``wanted_for``, if none of them is a Redis.
    """
    url = app.conf.get(REDIS_URL)
    if url:
        return Storage(connect_redis(url, seconds), _prefix(app, app.conf.broker_transport_options))

    results: Any = app.backend
    if isinstance(results, RedisBackend):
        # Its own settings hold there: TLS, sentinels, passwords.
        return Storage(results.client, _prefix(app, app.conf.result_backend_transport_options))
    with app.connection_for_write() as connection:
        if connection.transport_cls in REDIS_TRANSPORTS - {"sentinel"}:
            client = connect_redis(first_broker_url(app), seconds)
            return Storage(client, _prefix(app, app.conf.broker_transport_options))

    raise ConfigurationError(
        f"{wanted_for} need a Redis: set TASKSERVICE_REDIS_URL, or give CeleryBackend settings with a "
        "redis_url; neither broker nor result backend of this app is one"
    )


def _prefix(app: Celery, transport_options: Mapping[str, Any]) -> str:
    # Who shares a server gives Celery's keys a prefix, and means ours as well.
    return app.conf.get(KEY_PREFIX) or f"{transport_options.get('global_keyprefix', '')}{PREFIX}"
