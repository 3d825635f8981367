"""Many messages at once on Celery: what is stored, and when Celery sends by itself."""

from __future__ import annotations

import json
import time
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest
from celery import Celery, signals
from celery.app.task import Task
from kombu import Producer
from redis.client import Pipeline

from taskservice import BackendUnavailableError, CeleryBackend, ConfigurationError, Settings, create_app
from taskservice.backends import bulk
from taskservice.backends.bulk import Message, publish_all
from tests.taskservice.messages import (
    CALLS,
    WAIT,
    add,
    app_on,
    celery_task,
    client_of,
    empty,
    lists,
    needs_pipelines,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskservice.runs import TaskHandle
    from tests.taskservice.conftest import RedisProcess


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("conf", "options"),
    [
        ({}, {}),
        ({}, {"queue": "elsewhere", "priority": 6}),
        ({}, {"priority": 9, "compression": "zlib", "ignore_result": True}),
        ({}, {"expires": 3600}),
        ({"broker_transport_options": {"global_keyprefix": "mine:"}}, {}),
        ({"task_routes": {"many.*": {"queue": "routed", "priority": 3}}}, {}),
        ({"task_compression": "gzip", "task_default_delivery_mode": "transient"}, {}),
        ({"broker_transport_options": {"priority_steps": [0, 5]}}, {"priority": 5}),
    ],
)
@needs_pipelines
def test_a_stored_message_is_the_one_that_celery_stores(
    redis_process: RedisProcess,
    monkeypatch: pytest.MonkeyPatch,
    conf: dict[str, Any],
    options: dict[str, Any],
) -> None:
    app = app_on(redis_process, **conf)
    made = celery_task(app, **options)
    apply_async: Any = made.apply_async  # its stubs do not know the properties of a message
    for args, kwargs in CALLS:
        apply_async(args, kwargs, timestamp=int(time.time()))
    expected = lists(app)
    empty(app)

    monkeypatch.setattr(bulk, "_publish_each", lambda *_: pytest.fail("sent one by one"))
    publish_all(app, made, [Message(str(uuid4()), args, kwargs) for args, kwargs in CALLS], {})

    assert [len(items) for items in expected.values()] == [4]
    assert lists(app) == expected


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands were sent in each round trip."""
    trips: list[int] = []
    original = Pipeline.execute

    def execute(self: Pipeline, **options: Any) -> Any:
        trips.append(len(self.command_stack))
        return original(self, **options)

    monkeypatch.setattr(Pipeline, "execute", execute)
    return trips


@needs_pipelines
def test_two_thousand_messages_take_a_handful_of_round_trips(
    redis_process: RedisProcess, trips: list[int]
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    publish_all(app, made, [Message(str(uuid4()), (number,), {}) for number in range(2000)], {})

    assert trips[-4:] == [500] * 4
    assert len(lists(app)["celery"]) == 2000


@needs_pipelines
def test_large_messages_share_a_round_trip_by_size(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch, trips: list[int]
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    monkeypatch.setattr(bulk, "BATCH_BYTES", 2500)
    publish_all(app, made, [Message(str(uuid4()), ("x" * 1000,), {}) for _ in range(6)], {})

    assert trips[-2:] == [3, 3]


@pytest.fixture
def published() -> Iterator[list[str]]:
    """What the signals of publishing said."""
    heard: list[str] = []

    def before(headers: dict[str, Any], **_: object) -> None:
        headers["trace"] = f"t-{len(heard)}"
        heard.append("before")

    def after(**_: object) -> None:
        heard.append("after")

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    yield heard
    signals.before_task_publish.disconnect(before)
    signals.after_task_publish.disconnect(after)


def test_listeners_hear_of_every_message_and_may_change_it(
    redis_process: RedisProcess, published: list[str]
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)

    publish_all(app, made, [Message(str(uuid4()), (number,), {}) for number in range(3)], {})

    stored = lists(app)["celery"]
    assert published == ["before", "after"] * 3
    assert [json.loads(item)["headers"]["trace"] for item in stored] == ["t-0", "t-2", "t-4"]


def test_a_patched_apply_async_is_called_for_every_message(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    seen: list[object] = []
    original = Task.apply_async

    @wraps(original)
    def spied(self: Task[..., Any], *args: Any, **options: Any) -> Any:
        seen.append(options["task_id"])
        return original(self, *args, **options)

    monkeypatch.setattr(Task, "apply_async", spied)
    messages = [Message(str(uuid4()), (number,), {}) for number in range(3)]

    publish_all(app, made, messages, {})

    assert seen == [message.id for message in messages]
    assert len(lists(app)["celery"]) == 3


def test_a_router_that_looks_at_arguments_is_asked_for_every_message(redis_process: RedisProcess) -> None:
    def route(name: str, args: tuple[Any, ...], *_: object, **__: object) -> dict[str, str]:
        return {"queue": f"q{args[0] % 2}"}

    app = app_on(redis_process, task_routes=(route,))
    made = celery_task(app)

    publish_all(app, made, [Message(str(uuid4()), (number,), {}) for number in range(5)], {})

    assert {key: len(items) for key, items in lists(app).items()} == {"q0": 3, "q1": 2}


def test_another_broker_gets_celerys_own_messages() -> None:
    app = Celery("other", broker="memory://", set_as_current=False)
    made = celery_task(app)

    publish_all(app, made, [Message(str(uuid4()), (number,), {}) for number in range(3)], {})

    with app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
        assert [queue.get(timeout=1).payload[0] for _ in range(3)] == [[0], [1], [2]]


def test_a_seam_that_is_gone_is_told(redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    monkeypatch.delattr(Producer, "_publish")

    with pytest.raises(ConfigurationError, match=r"Producer\._publish is gone"):
        publish_all(app, made, [Message(str(uuid4()), (), {})], {})


@pytest.mark.anyio
async def test_no_message_subscribes_for_its_result(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        await backend.launch_many(add, [(number,) for number in range(10)])

        assert client_of(app).pubsub_channels() == []
        assert client_of(app).llen("sums") == 10


@pytest.mark.anyio
async def test_a_broker_that_is_away_is_told(closed_port: int) -> None:
    app = create_app(Settings(redis_url=f"redis://127.0.0.1:{closed_port}/0"))
    async with CeleryBackend(app) as backend:
        with pytest.raises(BackendUnavailableError, match="celery back end"):
            await backend.launch_many(add, [(1,), (2,)])


@pytest.mark.anyio
async def test_a_broker_that_came_back_gets_every_message_once(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        await backend.launch_many(add, [(1,)])
        redis_process.stop()
        redis_process.start()

        await backend.launch_many(add, [(number,) for number in range(700)])

        assert len(lists(app)["sums"]) == 700


@pytest.mark.anyio
async def test_a_crowd_of_waiters_is_served_and_leaves_no_channel_behind(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend_of: Any = app.backend
    values: list[int] = []

    async def wait(handle: TaskHandle) -> None:
        values.append(await handle.result(WAIT))

    async with CeleryBackend(app) as backend:
        handles = await backend.launch_many(add, [(number,) for number in range(250)])
        async with anyio.create_task_group() as group:
            for handle in handles:
                group.start_soon(wait, handle)
            await anyio.wait_all_tasks_blocked()
            for number, handle in enumerate(handles):
                backend_of.store_result(handle.id, {}, "STARTED")
                backend_of.store_result(handle.id, number, "SUCCESS")

        assert sorted(values) == list(range(250))
        with anyio.fail_after(WAIT):
            while client_of(app).pubsub_channels():  # noqa: ASYNC110 - another process
                await anyio.sleep(0.005)
