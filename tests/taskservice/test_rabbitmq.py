"""What is RabbitMQ's own; that runs mean the same there, the contract suite says."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest

from taskservice import (
    BackendUnavailableError,
    CeleryBackend,
    LaunchOptions,
    Settings,
    TaskState,
    create_app,
)
from tests.taskservice import worker_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from taskservice import TaskHandle
    from tests.taskservice.conftest import RedisProcess
    from tests.taskservice.worker_groups import StartWorker, WorkerGroup

URL = os.environ.get("TASKSERVICE_TEST_AMQP_URL", "")
WAIT = 20.0

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not URL, reason="TASKSERVICE_TEST_AMQP_URL names no RabbitMQ; .ci/rabbitmq starts one"
    ),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(redis_process: RedisProcess) -> Iterator[Settings]:
    """RabbitMQ as broker, with a queue of this test's own, and Redis for the rest."""
    given = Settings(
        redis_url=redis_process.url,
        broker_url=URL,
        default_queue=f"rabbitmq-{uuid4()}",
        visibility_timeout=timedelta(seconds=1),
    )
    yield given
    with create_app(given).connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_delete(given.default_queue)


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[CeleryBackend]:
    """A client of the workers."""
    async with CeleryBackend(create_app(settings)) as opened:
        yield opened


@pytest.fixture
def start(settings: Settings, start_worker: StartWorker) -> StartWorker:
    """A function that starts a worker with one slot."""

    def start() -> WorkerGroup:
        return start_worker(settings.redis_url, slots=1, broker_url=URL, default_queue=settings.default_queue)

    return start


async def until_started(handle: TaskHandle) -> None:
    with anyio.fail_after(WAIT):
        while await handle.status() is not TaskState.STARTED:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)


async def test_the_highest_priority_goes_first(
    backend: CeleryBackend, start: StartWorker, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    handles = [
        await backend.launch_task(
            worker_tasks.write_down, [str(diary), priority], options=LaunchOptions(priority=priority)
        )
        for priority in (0, 5, 9)
    ]

    start()

    assert [await handle.result(WAIT) for handle in handles] == [0, 5, 9]
    assert diary.read_text().split() == ["9", "5", "0"]


async def test_the_run_of_a_killed_worker_is_back_at_once(
    backend: CeleryBackend, start: StartWorker, tmp_path: Path
) -> None:
    diary, gate = tmp_path / "diary", tmp_path / "gate"
    worker = start()
    handle = await backend.launch_task(worker_tasks.wait_for, [str(diary), str(gate)])
    await until_started(handle)
    with anyio.fail_after(WAIT):
        # It is told that it started before its body begins.
        while not diary.exists() or not diary.read_text():  # noqa: ASYNC110 - a file tells nobody
            await anyio.sleep(0.01)

    worker.kill()
    gate.touch()
    start()

    assert await handle.result(WAIT) == "opened"
    assert diary.read_text() == "1\n1\n"


async def test_an_eta_may_be_far_away(backend: CeleryBackend, tmp_path: Path) -> None:
    far = LaunchOptions(countdown=3600)

    handle = await backend.launch_task(worker_tasks.write_down, [str(tmp_path / "diary"), 1], options=far)

    assert await handle.status() is TaskState.PENDING


async def test_many_calls_share_messages(backend: CeleryBackend, start: StartWorker, tmp_path: Path) -> None:
    diary = str(tmp_path / "diary")
    start()

    handles = await backend.launch_many(
        worker_tasks.write_down, [(diary, number) for number in range(100)], per_message=30
    )

    assert [await handle.result(WAIT) for handle in handles] == list(range(100))


async def test_a_broker_that_is_away_is_told_in_time(redis_process: RedisProcess, closed_port: int) -> None:
    away = Settings(redis_url=redis_process.url, broker_url=f"amqp://127.0.0.1:{closed_port}//")

    async with CeleryBackend(create_app(away)) as backend:
        health = await backend.health()
        with anyio.fail_after(WAIT), pytest.raises(BackendUnavailableError, match="refused"):
            await backend.launch_task(worker_tasks.write_down, ["diary", 1])
        with anyio.fail_after(WAIT), pytest.raises(BackendUnavailableError, match="refused"):
            await backend.launch_many(worker_tasks.write_down, [("diary", 1)])

    assert not health.healthy
    assert f"no broker at amqp://guest:**@127.0.0.1:{closed_port}//" in health.detail


async def test_the_health_tells_of_worker_and_queue(
    settings: Settings, start: StartWorker, tmp_path: Path
) -> None:
    async with CeleryBackend(create_app(settings), settings=settings) as backend:
        for number in (1, 2):
            await backend.launch_task(worker_tasks.write_down, [str(tmp_path / "diary"), number])
        before = await backend.health()
        start()
        with anyio.fail_after(WAIT):
            while not (await backend.health()).workers:  # noqa: ASYNC110 - another process
                await anyio.sleep(0.01)

    # Whether it was healthy then is up to others, whom one RabbitMQ may serve at the same time.
    assert [(queue.name, queue.depth) for queue in before.queues] == [(settings.default_queue, 2)]
