"""Where an app's messages and results go in place of the servers that its settings name.

The number of the database stays as it was, so that a Redis client of the tests' own finds there what it looks
for. A result backend that needs no server is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pytest_taskservice.drivers.app_patch import broker_changes

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.redis import RedisServer

__all__ = ["named_servers", "world_settings"]

# Files, nothing at all, and Django's own database: a worker in another process has them too.
_KEPT = ("db+sqlite", "sqla+sqlite", "file", "filesystem", "disabled", "django-db", "django-cache")


def world_settings(app: Celery, server: RedisServer, prefix: str) -> dict[str, Any]:
    """Return the settings that send an app's messages and results to ``server``."""
    conf: Any = app.conf
    changes = broker_changes(app, url=_on(server, conf.broker_url), prefix=prefix)
    changes["result_backend"] = _on(server, conf.result_backend)
    if str(conf.result_backend or "disabled").partition(":")[0] in _KEPT:
        del changes["result_backend"]
    # A suite that runs its tasks eagerly goes on doing so.
    del changes["task_always_eager"]
    return changes


def named_servers(app: Celery) -> list[str]:
    """Return the ``host:port`` of every plain Redis server that an app's settings name."""
    conf: Any = app.conf
    urls = [str(url or "") for url in (conf.broker_url, conf.result_backend)]
    found = [urlsplit(one) for url in urls for one in url.split(";")]
    return [f"{url.hostname or 'localhost'}:{url.port or 6379}" for url in found if url.scheme == "redis"]


def _on(server: RedisServer, url: Any) -> str:
    """Return the URL of ``server`` with the database of ``url``, if that is one of Redis."""
    ours = urlsplit(server.url)
    theirs = urlsplit(str(url or ""))
    number = theirs.path.strip("/")
    if not server.owned or theirs.scheme not in ("redis", "rediss") or not number.isdigit():
        return server.url
    return urlunsplit(ours._replace(path=f"/{number}"))
