"""Access: who a bearer token belongs to, and how much its owner may ask for. No I/O.

Tokens are kept as SHA-256 digests only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Final

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from taskservice.settings import Settings

__all__ = ["Access", "Principal", "RateLimiter"]

HASHED: Final = "sha256:"
DIGITS: Final = 64
SHORTEST: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who asks; ``key`` tells tokens apart and is no secret."""

    owner: str
    admin: bool
    key: str


class Access:
    """The tokens of ``settings``; `ConfigurationError` for what would let in nobody, or everybody."""

    def __init__(self, settings: Settings) -> None:
        admins = frozenset(settings.api_admins)
        self._principals = {
            digest: Principal(owner=owner, admin=owner in admins, key=digest[:16])
            for digest, owner in (_read(token, owner) for token, owner in settings.api_tokens.items())
        }
        strangers = admins - set(settings.api_tokens.values())
        if strangers:
            raise ConfigurationError(f"api_admins: no token belongs to {', '.join(sorted(strangers))}")
        if not self._principals and not settings.api_open:
            raise ConfigurationError(
                "set api_tokens, a token to an owner each, or api_open for everybody on this machine alone: "
                "without either the API would let in the world"
            )
        self._everybody = None if self._principals else Principal(owner="", admin=True, key="")

    @property
    def open(self) -> bool:
        """Whether everybody is let in who is on this machine."""
        return self._everybody is not None

    def of_header(self, authorization: bytes | None) -> Principal | None:
        """Return whose ``Authorization`` header it is, if it is anybody's."""
        if self._everybody is not None:
            return self._everybody

        scheme, _, token = (authorization or b"").partition(b" ")
        return self.of_token(token.strip()) if scheme.lower() == b"bearer" else None

    def of_token(self, token: bytes) -> Principal | None:
        """Return whose token it is, if it is anybody's."""
        if self._everybody is not None:
            return self._everybody

        digest = sha256(token).hexdigest()
        found = None
        # All of them, so that the time it takes says nothing about any.
        for known, principal in self._principals.items():
            if compare_digest(known, digest):
                found = principal
        return found


class RateLimiter:
    """A bucket of tokens for each principal: ``rate`` come in a second, and so many may be saved up."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, principal: Principal) -> int:
        """Take one and return 0, or return in how many seconds there will be one."""
        now = self._clock()
        left, at = self._buckets.get(principal.key, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate)
        taken = left >= 1
        self._buckets[principal.key] = (left - 1 if taken else left, now)
        return 0 if taken else max(1, ceil((1 - left) / self._rate))


def _read(token: str, owner: str) -> tuple[str, str]:
    # No message may show a token: it would end in a log.
    if not owner.strip():
        raise ConfigurationError("api_tokens: every token needs an owner, and one has none")
    if token.startswith(HASHED):
        digest = token.removeprefix(HASHED).lower()
        if not _is_digest(digest):
            raise ConfigurationError(f"api_tokens: need {DIGITS} hex digits after sha256: for {owner!r}")
        return digest, owner
    if _is_digest(token.lower()):
        raise ConfigurationError(
            f"api_tokens: the token of {owner!r} may be a hash; write sha256: before it if it is one, and "
            "hash it yourself if it is not"
        )
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            f"api_tokens: need {SHORTEST} or more ASCII characters without a space for {owner!r}"
        )
    return sha256(token.encode()).hexdigest(), owner


def _is_digest(text: str) -> bool:
    return len(text) == DIGITS and all(each in "0123456789abcdef" for each in text)
