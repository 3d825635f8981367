"""A Redis that is killed on purpose comes back with its data; one that is closed leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_taskservice.faults.redis import MortalRedis
from taskservice.reaper import shared_reaper

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[MortalRedis]:
    """One that answers."""
    found = MortalRedis("embedded", reaper=shared_reaper())
    yield found
    found.close()


@pytest.fixture
def client(server: MortalRedis) -> Iterator[redis.Redis]:
    """A client that tries once."""
    found = redis.Redis(port=server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
    yield found
    found.close()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_what_was_answered_is_there_after_its_end(server: MortalRedis, client: redis.Redis, end: str) -> None:
    for number in range(100):
        client.rpush("queue", number)

    getattr(server, end)()
    assert not server.alive
    with pytest.raises(redis.exceptions.ConnectionError):
        client.ping()
    server.start()

    assert client.llen("queue") == 100


def test_a_paused_one_answers_later(server: MortalRedis, client: redis.Redis) -> None:
    client.set("a", "b")

    server.pause()
    with pytest.raises(redis.exceptions.TimeoutError):
        client.get("a")
    server.resume()

    assert client.get("a") == b"b"


@pytest.mark.parametrize("state", ["alive", "kill", "pause"])
def test_closing_leaves_no_process_and_no_file(state: str) -> None:
    server = MortalRedis("embedded", reaper=shared_reaper())
    found: Any = redis.Redis(port=server.port).config_get("dir")
    home = Path(found["dir"])
    if state != "alive":
        getattr(server, state)()

    server.close()
    server.close()

    assert not home.exists()
    with pytest.raises(redis.exceptions.ConnectionError):
        redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)).ping()
