"""Canvases on their way to a worker: what is sent, and what is refused before."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from taskservice import (
    BackendUnavailableError,
    CeleryBackend,
    ConfigurationError,
    LaunchOptionError,
    Settings,
    TaskRegistry,
    TaskState,
    chain,
    chord,
    create_app,
    group,
    task,
)

if TYPE_CHECKING:
    from celery import Celery

    from tests.taskservice.conftest import RedisProcess

pytestmark = pytest.mark.anyio
REGISTRY = TaskRegistry()


@task(registry=REGISTRY, queue="images", priority=3, expires=60)
def resize(image: int) -> int:
    return image


@task(registry=REGISTRY)
def collect(values: list[int]) -> list[int]:
    return values


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def app(redis_process: RedisProcess) -> Celery:
    return create_app(Settings(redis_url=redis_process.url))


def waiting(redis_process: RedisProcess, queue: str) -> list[dict[str, Any]]:
    found = Redis.from_url(redis_process.url).lrange(queue, 0, -1)
    return [json.loads(each) for each in found]


async def test_a_group_goes_where_its_task_goes(app: Celery, redis_process: RedisProcess) -> None:
    async with CeleryBackend(app) as backend:
        handle = await backend.launch_canvas(
            group(resize.s(1), chain(resize.s(2), collect.s()), resize.map([3]))
        )

        assert await handle.status() is TaskState.PENDING
    # Priority 3 has a list of its own on Redis.
    messages = waiting(redis_process, "images\x06\x163")
    assert {message["headers"]["id"] for message in messages} == {
        handle.runs[index].id for index in (0, 1, 3)
    }
    assert {message["headers"]["task"] for message in messages} == {resize.name, "celery.map"}
    assert all(message["headers"]["expires"] for message in messages)


async def test_a_later_step_keeps_its_options_for_its_turn(app: Celery, redis_process: RedisProcess) -> None:
    async with CeleryBackend(app) as backend:
        later = collect.s().set(queue="slow", countdown=5, priority=7)
        await backend.launch_canvas(chain(collect.s([1]), later))

    (message,) = waiting(redis_process, "celery")
    (step,) = json.loads(b64decode(message["body"]))[2]["chain"]
    options = step["options"]
    assert (options["queue"], options["countdown"], options["priority"]) == ("slow", 5, 7)


async def test_nobody_subscribes_for_what_is_sent(app: Celery, redis_process: RedisProcess) -> None:
    async with CeleryBackend(app) as backend:
        await backend.launch_canvas(chord([collect.s([1]), collect.s([2])], collect.s()))

        assert Redis.from_url(redis_process.url).pubsub_channels() == []


async def test_an_eta_beyond_the_visibility_timeout_names_its_step(app: Celery) -> None:
    async with CeleryBackend(app) as backend:
        with pytest.raises(LaunchOptionError, match=r"^eta: in chain\[1\]: it is 7200 s away"):
            await backend.launch_canvas(chain(collect.s([1]), collect.s().set(countdown=7200)))


async def test_a_broker_that_is_gone_is_an_error(app: Celery, redis_process: RedisProcess) -> None:
    app.conf.task_publish_retry = False
    redis_process.stop()

    async with CeleryBackend(app) as backend:
        with pytest.raises(BackendUnavailableError):
            await backend.launch_canvas(chain(collect.s([1]), collect.s()))


async def test_a_chord_needs_a_result_backend() -> None:
    from celery import Celery

    async with CeleryBackend(Celery(set_as_current=False, broker="redis://127.0.0.1:1/0")) as backend:
        with pytest.raises(ConfigurationError, match="set result_backend: without stored results"):
            await backend.launch_canvas(chord([collect.s([1])], collect.s()))


async def test_a_pool_that_is_too_small_for_its_headers_is_refused(app: Celery) -> None:
    app.conf.broker_pool_limit = 2
    inner = chord([collect.s([1])], collect.s())

    async with CeleryBackend(app) as backend:
        with pytest.raises(ConfigurationError, match="set broker_pool_limit above 2, it is 2"):
            await backend.launch_canvas(chord([inner, collect.s([2])], collect.s()))
