"""A server we were given by its URL: checked once, never owned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.redis.base import RedisRequest, RedisServer
from pytest_taskservice.redis.wire import version_text

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["SCHEMES", "connect", "shown"]

SCHEMES = ("redis", "rediss", "unix")


def connect(request: RedisRequest) -> RedisServer:
    """Check that ``request.choice``, a URL, leads to a Redis that lets us in."""
    url = request.choice
    if url.partition("://")[0] not in SCHEMES:
        raise RedisProviderError(
            f"cannot use {shown(url)!r}; give a URL that begins with redis://, rediss:// or unix://"
        )

    client = _client(url, request.timeout)
    try:
        return RedisServer(url=url, provider="url", version=_check(client, request), owned=False)
    finally:
        client.close()


def shown(url: str) -> str:
    """Return ``url`` as it may appear in a log: without its password."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}:***@{place}" if at else f"{scheme}://{rest}"


def _client(url: str, timeout: float) -> Redis:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        # Protocol 2 needs no HELLO, so a refusal is the answer to AUTH or PING and says which.
        client: Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except ValueError as error:
        raise RedisProviderError(f"bad Redis URL {shown(url)!r}: {error}") from error
    return client


def _check(client: Redis, request: RedisRequest) -> str:
    from redis import exceptions

    url = shown(request.choice)
    try:
        client.ping()
        return version_text(client.info("server"))
    except exceptions.NoPermissionError:
        return version_text({})
    except exceptions.AuthenticationError as error:
        raise RedisProviderError(_refusal(url, str(error))) from error
    except exceptions.TimeoutError as error:
        raise RedisProviderError(
            f"no answer from {url} within {request.timeout} s; is it a Redis?"
        ) from error
    except exceptions.InvalidResponse as error:
        raise RedisProviderError(f"not a Redis at {url}: {error}") from error
    except exceptions.ConnectionError as error:
        raise RedisProviderError(_explain(url, error)) from error
    except exceptions.RedisError as error:
        raise RedisProviderError(f"the Redis at {url} refuses: {error}") from error


def _refusal(url: str, text: str) -> str:
    # The client library has dropped the server's code; people search for it.
    if "required" in text:
        return f"{url} wants a password; put it into the URL: NOAUTH {text}"
    code = "WRONGPASS " if "invalid" in text else ""
    return f"wrong password or user for {url}: {code}{text}"


def _explain(url: str, error: Exception) -> str:
    text = str(error)
    if "closed by server" in text.lower() or "reset by peer" in text.lower():
        return f"not a Redis at {url}, or one that turns us away: {text}"
    return f"cannot reach {url}; start it or correct the URL: {text}"
