"""A thousand accepted runs, and what is killed while they are run."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from redis import Redis

from taskservice import CeleryBackend, Settings, create_app
from tests.taskservice import worker_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from taskservice import TaskHandle
    from tests.taskservice.conftest import RedisProcess
    from tests.taskservice.worker_groups import StartWorker

pytestmark = pytest.mark.anyio

ACCEPTED = 1000
KILLS = 4
WAIT = 40.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def until_drained_to(url: str, waiting: int) -> None:
    deadline = time.monotonic() + WAIT
    with Redis.from_url(url) as client:
        while client.llen("celery") > waiting:
            assert time.monotonic() < deadline, "nobody drains the queue"
            time.sleep(0.001)


async def results(handles: list[TaskHandle]) -> list[object]:
    with anyio.fail_after(WAIT):
        return [await handle.result(WAIT) for handle in handles]


async def test_killed_workers_lose_none(
    redis_process: RedisProcess, start_worker: StartWorker, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    diary.touch()
    settings = Settings(redis_url=redis_process.url, visibility_timeout=timedelta(seconds=1))

    async with CeleryBackend(create_app(settings)) as backend:
        calls = [(str(diary), number) for number in range(ACCEPTED)]
        handles = await backend.launch_many(worker_tasks.write_down, calls)
        # The survivor starts last, and gets what the others leave.
        workers = [start_worker(redis_process.url, visibility_timeout="1") for _ in range(KILLS)]
        for killed, worker in enumerate(workers, 1):
            until_drained_to(redis_process.url, ACCEPTED - killed * ACCEPTED // (KILLS + 2))
            worker.kill()
        start_worker(redis_process.url, visibility_timeout="1")

        assert await results(handles) == list(range(ACCEPTED))

    effects = Counter(map(int, diary.read_text().split()))
    assert sorted(effects) == list(range(ACCEPTED))


async def test_a_killed_redis_with_a_journal_loses_none(
    redis_process: RedisProcess, start_worker: StartWorker, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    diary.touch()
    journal = ("--appendonly", "yes", "--appendfsync", "always")
    redis_process.stop()
    redis_process.start(*journal)
    settings = Settings(redis_url=redis_process.url, visibility_timeout=timedelta(seconds=1))

    async with CeleryBackend(create_app(settings)) as backend:
        calls = [(str(diary), number) for number in range(ACCEPTED)]
        handles = await backend.launch_many(worker_tasks.write_down, calls)
        start_worker(redis_process.url, visibility_timeout="1")
        until_drained_to(redis_process.url, ACCEPTED - ACCEPTED // 4)
        redis_process.kill()
        redis_process.start(*journal)

        assert await results(handles) == list(range(ACCEPTED))

    effects = Counter(map(int, diary.read_text().split()))
    assert sorted(effects) == list(range(ACCEPTED))
