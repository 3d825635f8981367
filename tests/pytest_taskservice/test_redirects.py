"""Redis servers that stand for others, until they no longer do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
import redis.asyncio

from pytest_taskservice.drivers import redirects
from pytest_taskservice.redis import RedisRequest, acquire

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = "redis://me:secret@shop.invalid:6390/3"


@pytest.fixture
def target() -> Iterator[str]:
    server = acquire(RedisRequest(choice="fake"))
    yield server.url.removeprefix("redis://").partition("/")[0]
    server.close()


def test_a_client_reaches_the_other_server_and_afterwards_its_own(target: str) -> None:
    client = redis.Redis.from_url(ADDRESS)
    undo = redirects.install({"shop.invalid:6390": target})
    try:
        client.set("key", "value")
        found = client.get("key")
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
    finally:
        undo()

    assert found == b"value"
    assert (connection.host, connection.username, connection.password) == ("shop.invalid", "me", "secret")
    with pytest.raises(redis.ConnectionError):
        client.get("key")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_async_client_reaches_it_too(target: str, anyio_backend: str) -> None:
    undo = redirects.install({"shop.invalid:6390": target})
    try:
        async with redis.asyncio.Redis.from_url(ADDRESS) as client:
            await client.set("key", "value")
            assert await client.get("key") == b"value"
    finally:
        undo()


def test_localhost_has_several_names(target: str) -> None:
    undo = redirects.install({"localhost:6390": target})
    try:
        assert redis.Redis(host="127.0.0.1", port=6390).ping()
    finally:
        undo()
