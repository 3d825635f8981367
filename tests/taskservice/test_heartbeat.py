from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from taskservice import Settings, WorkerHeartbeat, read_heartbeats
from taskservice.backends.storage import Storage
from taskservice.heartbeats import RunningRun, heartbeat_key
from taskservice.worker.heartbeat import HeartbeatThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.taskservice.conftest import RedisProcess

BEAT = WorkerHeartbeat(
    worker="w1@here",
    pid=7,
    queues=("celery", "mail"),
    pool="prefork",
    slots=2,
    running=(RunningRun(id="r1", task="shop.add", since=12.5),),
    at=13.0,
    version="0.1.0",
)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_heartbeat_reads_what_it_wrote() -> None:
    assert WorkerHeartbeat.from_json(BEAT.to_json()) == BEAT


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"running": 3, "queues": []}', b"\xff"])
def test_something_else_is_no_heartbeat(stored: str | bytes) -> None:
    with pytest.raises(ValueError, match="not a heartbeat"):
        WorkerHeartbeat.from_json(stored)


def beating(settings: Settings) -> HeartbeatThread:
    storage = Storage(Redis.from_url(settings.redis_url), settings.key_prefix)
    return HeartbeatThread(storage, settings, lambda: BEAT)


def test_a_worker_beats_until_it_stops(redis_process: RedisProcess) -> None:
    settings = Settings(
        redis_url=redis_process.url,
        heartbeat_interval=timedelta(milliseconds=20),
        heartbeat_ttl=timedelta(seconds=30),
    )
    key = heartbeat_key(settings.key_prefix, BEAT.worker)
    thread = beating(settings)

    thread.start()

    until(lambda: read_heartbeats(settings.redis_url, settings.key_prefix) == [BEAT])
    with Redis.from_url(settings.redis_url) as client:
        assert 0 < client.pttl(key) <= 30_000
        client.delete(key)
        until(lambda: bool(client.exists(key)))
        thread.stop()
        assert not client.exists(key)


def test_a_worker_beats_again_after_redis_was_away(redis_process: RedisProcess) -> None:
    settings = Settings(
        redis_url=redis_process.url,
        heartbeat_interval=timedelta(milliseconds=20),
        heartbeat_ttl=timedelta(seconds=30),
    )
    thread = beating(settings)
    thread.start()
    until(lambda: bool(read_heartbeats(settings.redis_url, settings.key_prefix)))

    redis_process.stop()
    redis_process.start()

    until(lambda: read_heartbeats(settings.redis_url, settings.key_prefix) == [BEAT])
    thread.stop()


def test_only_our_prefix_is_read(redis_process: RedisProcess) -> None:
    with Redis.from_url(redis_process.url) as client:
        client.set(heartbeat_key("a[b]*:", "w1"), BEAT.to_json())
        client.set(heartbeat_key("ab:", "w2"), BEAT.to_json())
        client.set(heartbeat_key("a[b]*:", "w3"), "rubbish")

    assert read_heartbeats(redis_process.url, "a[b]*:") == [BEAT]


def test_a_redis_that_is_away_is_a_connection_error(closed_port: int) -> None:
    with pytest.raises(ConnectionError, match="no heartbeats from Redis"):
        read_heartbeats(f"redis://127.0.0.1:{closed_port}/0", "taskservice:")
