"""A worker that is told to stop: what runs may end, the rest goes back, nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from billiard.exceptions import WorkerLostError
from redis import Redis

from taskservice import (
    CeleryBackend,
    LaunchOptions,
    Settings,
    TaskHandle,
    TaskState,
    create_app,
    read_heartbeats,
)
from tests.taskservice import worker_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.taskservice.conftest import RedisProcess
    from tests.taskservice.worker_groups import StartWorker

pytestmark = pytest.mark.anyio

WAIT = 20.0
POOLS = {"prefork": 2, "threads": 2, "solo": 1}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def backend(redis_process: RedisProcess) -> AsyncIterator[CeleryBackend]:
    """A client of the workers."""
    async with CeleryBackend(create_app(Settings(redis_url=redis_process.url))) as opened:
        yield opened


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    """The kind of pool under test."""
    return str(request.param)


async def until_started(*handles: TaskHandle) -> None:
    with anyio.fail_after(WAIT):
        for handle in handles:
            while await handle.status() is not TaskState.STARTED:  # noqa: ASYNC110 - another process
                await anyio.sleep(0.005)


def waiting(url: str) -> tuple[int, int]:
    """Return how many messages wait in the queue, and how many are with a worker."""
    with Redis.from_url(url) as client:
        return client.llen("celery"), client.hlen("unacked")


async def test_what_ends_in_time_ends_and_the_rest_goes_back(
    redis_process: RedisProcess,
    start_worker: StartWorker,
    backend: CeleryBackend,
    pool: str,
    tmp_path: Path,
) -> None:
    slots, gate = POOLS[pool], tmp_path / "gate"
    diaries = [tmp_path / f"diary-{number}" for number in range(slots + 2)]
    worker = start_worker(redis_process.url, pool=pool, slots=slots)
    handles = [await backend.launch_task(worker_tasks.wait_for, [str(diary), str(gate)]) for diary in diaries]
    later = LaunchOptions(countdown=3)
    due = await backend.launch_task(worker_tasks.write_down, [str(tmp_path / "due"), 7], options=later)
    await until_started(*handles[:slots])

    worker.ask_to_stop()
    gate.touch()

    assert worker.wait() == 0
    assert waiting(redis_process.url) == (3, 0)
    assert read_heartbeats(redis_process.url, "taskservice:") == []
    start_worker(redis_process.url, pool=pool, slots=slots)
    assert [await handle.result(WAIT) for handle in handles] == ["opened"] * len(handles)
    assert await due.result(WAIT) == 7
    assert [diary.read_text() for diary in diaries] == ["1\n"] * len(diaries)


async def test_what_does_not_end_in_time_goes_back_and_is_told(
    redis_process: RedisProcess,
    start_worker: StartWorker,
    backend: CeleryBackend,
    pool: str,
    tmp_path: Path,
) -> None:
    diary, gate = tmp_path / "diary", tmp_path / "gate"
    worker = start_worker(redis_process.url, pool=pool, slots=POOLS[pool], shutdown_grace="0.2")
    handle = await backend.launch_task(worker_tasks.wait_for, [str(diary), str(gate)])
    await until_started(handle)

    worker.ask_to_stop()

    assert worker.wait() == 0
    assert waiting(redis_process.url) == (1, 0)
    assert read_heartbeats(redis_process.url, "taskservice:") == []
    assert (
        f"run {handle.id} of tests.taskservice.worker_tasks.wait_for did not end in 0.2 s and is given back"
        in (worker.log.read_text())
    )
    gate.touch()
    start_worker(redis_process.url, pool=pool, slots=POOLS[pool])
    assert await handle.result(WAIT) == "opened"
    assert diary.read_text() == "1\n1\n"


async def test_a_run_acknowledged_early_fails_when_its_time_is_over(
    redis_process: RedisProcess,
    start_worker: StartWorker,
    backend: CeleryBackend,
    pool: str,
    tmp_path: Path,
) -> None:
    gate = str(tmp_path / "gate")
    worker = start_worker(redis_process.url, pool=pool, slots=POOLS[pool], shutdown_grace="0.2")
    handle = await backend.launch_task(worker_tasks.wait_for_once, [str(tmp_path / "diary"), gate])
    await until_started(handle)

    worker.ask_to_stop()

    assert worker.wait() == 0
    assert waiting(redis_process.url) == (0, 0)
    with pytest.raises(WorkerLostError):
        await handle.result(WAIT)
