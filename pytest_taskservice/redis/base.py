"""The contract of a Redis provider: who gives a test its server, and what may be done to it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PROVIDERS", "RedisRequest", "RedisServer"]

PROVIDERS = ("auto", "url", "server", "embedded", "container", "fake")


@dataclass(frozen=True, kw_only=True, slots=True)
class RedisRequest:
    """What is asked for. ``choice`` is one of :data:`PROVIDERS` or a ``redis://`` URL.

    ``timeout`` bounds, in seconds, each step of the start (fetching an image is not bounded by it);
    ``image`` is for the container only.
    """

    choice: str = "auto"
    image: str = "redis:7-alpine"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError(f"need a timeout above zero, got {self.timeout}")


@dataclass(kw_only=True, slots=True)
class RedisServer:
    """A server that answers PING, until ``close``.

    ``owned`` says that we started it, so it may be flushed; a server we were given is only ever
    touched under our own key prefix. ``version`` reads like ``Valkey 9.1.2`` or ``Redis 7.0.15``.
    ``notes`` say, one line each, why ``auto`` passed over the providers it would have liked better.
    """

    url: str
    provider: str
    version: str
    owned: bool
    notes: tuple[str, ...] = ()
    _closers: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _pid: int = field(default_factory=os.getpid, repr=False)

    def close(self) -> None:
        """Stop what we started, and leave no process, container, socket or file; may be called
        twice.

        A forked child holds a copy of this object but not the server, so there it does nothing.
        """
        if os.getpid() != self._pid:
            return

        while self._closers:
            self._closers.pop()()
