"""Idempotency keys in Redis: several services, a broker that is away, a launcher that died."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from celery import Celery
from redis import Redis

from taskservice import (
    BackendUnavailableError,
    CeleryBackend,
    ConfigurationError,
    LaunchOptions,
    Settings,
    create_app,
    task,
)

if TYPE_CHECKING:
    from tests.taskservice.conftest import RedisProcess

pytestmark = pytest.mark.anyio

ONCE = LaunchOptions(idempotency_key="order 7")


@task
def idle() -> None: ...


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(redis_process: RedisProcess) -> Settings:
    return Settings(redis_url=redis_process.url)


def waiting(settings: Settings) -> int:
    with Redis.from_url(settings.redis_url) as client:
        return int(client.llen("celery"))


async def test_two_services_launch_once_between_them(settings: Settings) -> None:
    async with (
        CeleryBackend(create_app(settings), settings=settings) as one,
        CeleryBackend(create_app(settings), settings=settings) as other,
        anyio.create_task_group() as group,
    ):
        for backend in (one, other) * 20:
            group.start_soon(partial(backend.launch_task, idle, options=ONCE))

    assert waiting(settings) == 1


async def test_a_launch_that_the_broker_refused_leaves_its_key_free(
    settings: Settings, closed_port: int
) -> None:
    app = create_app(settings)
    app.conf.update(broker_url=f"redis://127.0.0.1:{closed_port}/0", task_publish_retry=False)
    async with CeleryBackend(app, settings=settings) as backend:
        with pytest.raises(BackendUnavailableError):
            await backend.launch_task(idle, options=ONCE)

    async with CeleryBackend(create_app(settings), settings=settings) as backend:
        await backend.launch_task(idle, options=ONCE)

    assert waiting(settings) == 1


async def test_a_launcher_that_died_holds_a_key_for_a_minute_at_most(settings: Settings) -> None:
    with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        async with CeleryBackend(create_app(settings), settings=settings) as backend:
            await backend.launch_task(idle, options=ONCE)
            (key,) = client.keys("taskservice:once:*")
            # What it would have left between claiming and sending.
            client.set(key, "?somebody", px=300)

            with anyio.fail_after(10):
                handle = await backend.launch_task(idle, options=ONCE)

            assert client.get(key) == handle.id
            assert client.pttl(key) > 60_000


async def test_an_app_without_any_redis_says_what_keys_need() -> None:
    app = Celery("rabbit", broker="amqp://guest@127.0.0.1:1//", set_as_current=False)
    async with CeleryBackend(app) as backend:
        with pytest.raises(ConfigurationError, match="idempotency keys need a Redis"):
            await backend.launch_task(idle, options=ONCE)


async def test_an_app_of_ones_own_has_them_beside_its_results(redis_process: RedisProcess) -> None:
    app = Celery("theirs", broker=redis_process.url, backend=redis_process.url, set_as_current=False)
    app.conf.result_backend_transport_options = {"global_keyprefix": "theirs-"}
    async with CeleryBackend(app) as backend:
        await backend.launch_task(app.task(name="idle")(idle.func), options=ONCE)

    with Redis.from_url(redis_process.url, decode_responses=True) as client:
        (key,) = [found for found in client.keys("*") if "once" in found]
    assert key.startswith("theirs-taskservice:once:")
