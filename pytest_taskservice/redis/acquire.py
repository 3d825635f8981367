"""The one way to get a Redis: a request in, a running server out."""

from __future__ import annotations

from collections.abc import Callable

from pytest_taskservice.errors import RedisProviderError, UnknownNameError
from pytest_taskservice.redis import container, fake, process, url
from pytest_taskservice.redis.base import PROVIDERS, RedisRequest, RedisServer
from taskservice.reaper import Reaper, shared_reaper

__all__ = ["acquire"]

Start = Callable[[RedisRequest, Reaper], RedisServer]

STARTS: dict[str, Start] = {
    "server": process.start_server,
    "embedded": process.start_embedded,
    "container": container.start_container,
    "fake": lambda request, _reaper: fake.start_fake(request),
}
AUTO = ("server", "embedded", "fake")


def acquire(request: RedisRequest, *, reaper: Reaper | None = None) -> RedisServer:
    """Return a server that answers PING; the caller closes it.

    A provider that is named starts or raises :class:`RedisProviderError`; only ``auto`` falls to
    the next, and its server's ``notes`` say why. What we start is registered with ``reaper``, by
    default the process's own.
    """
    choice = request.choice
    if "://" in choice:
        return url.connect(request)
    if choice == "url":
        raise RedisProviderError("give the URL itself, as in --taskservice-redis=redis://localhost:6379/0")
    if choice != "auto" and choice not in STARTS:
        raise UnknownNameError("redis provider", choice, PROVIDERS)

    reaper = reaper or shared_reaper()
    return _first(request, reaper) if choice == "auto" else STARTS[choice](request, reaper)


def _first(request: RedisRequest, reaper: Reaper) -> RedisServer:
    notes: list[str] = []
    for name in AUTO:
        try:
            server = STARTS[name](request, reaper)
        except RedisProviderError as error:
            notes.append(f"{name}: {error}")
        else:
            server.notes = tuple(notes)
            return server

    raise RedisProviderError("\n".join(["no Redis can be had; each way failed:", *notes]))
