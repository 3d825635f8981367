"""One launch on Celery: from a template where that is what Celery would publish, elsewhere by Celery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from runpy import run_path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest
from amqp import Message as AMQPMessage
from celery import Celery, _state, signals
from celery.app.task import Task
from redis import Redis
from redis.client import Pipeline

from taskservice import (
    BackendUnavailableError,
    BlockingTaskService,
    CeleryBackend,
    ServiceClosedError,
    Settings,
)
from taskservice.backends import celery as celery_backend
from taskservice.backends import publishing
from taskservice.backends.publisher import Publisher
from taskservice.backends.sender import PlainSender
from taskservice.backends.templates import Message
from taskservice.submission import LaunchOptions
from tests.taskservice import messages
from tests.taskservice.messages import CALLS, NO_TIME, WAIT, app_on, empty, lists, needs_pipelines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.taskservice.conftest import RedisProcess

celery_task = partial(messages.celery_task, name="one.plain")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def by_celery(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of what Celery published by itself."""
    ids: list[str] = []
    original = publishing.publish

    def publish(app: Celery, task: Task[..., Any], run_id: str, *args: Any, **options: Any) -> Any:
        ids.append(run_id)
        return original(app, task, run_id, *args, **options)

    monkeypatch.setattr(celery_backend, "publish", publish)
    return ids


class Gate:
    """Nothing is sent before it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    original = PlainSender.send

    def send(self: PlainSender, wanted: Any) -> Any:
        gate.reached.set()
        assert gate.opened.wait(WAIT)
        return original(self, wanted)

    monkeypatch.setattr(PlainSender, "send", send)
    yield gate
    gate.opened.set()


def counts(app: Celery) -> dict[str, int]:
    return {key: len(items) for key, items in lists(app).items()}


@pytest.mark.parametrize(
    ("conf", "options"),
    [
        ({}, {}),
        ({}, {"queue": "elsewhere", "priority": 6}),
        ({}, {"priority": 9, "compression": "zlib", "ignore_result": True}),
        ({"broker_transport_options": {"global_keyprefix": "mine:"}}, {}),
        ({"task_routes": {"one.*": {"queue": "routed", "priority": 3}}}, {}),
        ({"task_compression": "gzip", "task_default_delivery_mode": "transient"}, {}),
    ],
)
@pytest.mark.anyio
@needs_pipelines
async def test_a_launched_message_is_the_one_that_celery_stores(
    redis_process: RedisProcess, by_celery: list[str], conf: dict[str, Any], options: dict[str, Any]
) -> None:
    app = app_on(redis_process, **conf)
    made = celery_task(app, **options)
    apply_async: Any = made.apply_async  # its stubs do not know the properties of a message
    for args, kwargs in CALLS:
        apply_async(args, kwargs, timestamp=int(time.time()))
    expected = lists(app)
    empty(app)

    async with CeleryBackend(app) as backend:
        for args, kwargs in CALLS:
            await backend.launch_task(made, args, kwargs)

    assert [len(items) for items in expected.values()] == [4]
    assert lists(app) == expected
    assert all(item.count(NO_TIME) == 1 for items in expected.values() for item in items)
    assert by_celery == []


@pytest.mark.anyio
async def test_every_message_tells_when_it_was_published(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    before = int(time.time())
    async with CeleryBackend(app) as backend:
        await backend.launch_task(made)
        await backend.launch_task(made, options=LaunchOptions(countdown=1))
        await backend.launch_many(made, [(), ()])
        await backend.launch_many(made, [(), ()], per_message=2)
    after = int(time.time())

    with Redis.from_url(app.conf.broker_url) as broker:
        stored = [json.loads(item)["properties"] for item in broker.lrange("celery", 0, -1)]
    assert len(stored) == 5
    assert all(before <= properties["timestamp"] <= after for properties in stored)


def test_on_amqp_the_time_is_one_that_py_amqp_can_write() -> None:
    found = publishing.publishing_time()
    message: Any = AMQPMessage("", **found)
    properties = message._serialize_properties()

    assert abs(int.from_bytes(properties[-8:], "big") - time.time()) < 3600


PLAIN_APP = """
import os
from celery import Celery

url = os.environ["PLAIN_REDIS_URL"]
app = Celery("plain", broker=url, backend=url, set_as_current=False)


@app.task(name="one.again", bind=True, shared=False)
def again(self, before=None):
    mine = (self.request.properties or {}).get("timestamp")
    if self.request.retries == 0:
        raise self.retry(args=(mine,), countdown=0)
    return [before, mine]
"""


def test_a_plain_worker_runs_it_and_its_retry_inherits_no_timestamp(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLAIN_REDIS_URL", redis_process.url)
    (tmp_path / "plain_app.py").write_text(PLAIN_APP, encoding="utf-8")
    found = run_path(str(tmp_path / "plain_app.py"))
    argv = [sys.executable, "-m", "celery", "-A", "plain_app", "worker", "-P", "solo"]
    # In a process of its own: Celery's worker in a thread leaves its logging and its app to this one.
    worker = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with BlockingTaskService(CeleryBackend(found["app"])) as service:
            _, handle = service.launch_task(found["again"])
            first, second = handle.result(WAIT)
    finally:
        worker.terminate()
        worker.wait(WAIT)

    assert abs(first - time.time()) < 3600
    assert second is None


def renew_router(app: Celery) -> None:
    amqp: Any = app.amqp
    amqp.flush_routes()
    amqp.router = amqp.Router()


def listen(app: Celery, made: Task[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    receivers = signals.before_task_publish.receivers
    monkeypatch.setattr(signals.before_task_publish, "receivers", [*receivers])
    signals.before_task_publish.connect(lambda **_: None, weak=False)


def send_events(app: Celery, made: Task[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.task_send_sent_event = True


def patch(app: Celery, made: Task[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    original = Task.apply_async

    def patched(*args: Any, **options: Any) -> Any:
        return original(*args, **options)

    monkeypatch.setattr(Task, "apply_async", patched)


def route_by_function(app: Celery, made: Task[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.task_routes = (lambda *_, **__: None,)
    renew_router(app)


def run_a_task(app: Celery, made: Task[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made.push_request(id="parent", called_directly=False)
    state: Any = _state
    state.push_current_task(made)


def expire(app: Celery, made: Task[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made.expires = 60


@pytest.mark.parametrize(
    "change",
    [listen, send_events, patch, route_by_function, run_a_task, expire],
    ids=lambda each: each.__name__,
)
@pytest.mark.anyio
@needs_pipelines
async def test_celery_publishes_what_it_would_not_publish_alike(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch, by_celery: list[str], change: Any
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    async with CeleryBackend(app) as backend:
        await backend.launch_task(made)
        assert by_celery == []

        change(app, made, monkeypatch)
        try:
            handle = await backend.launch_task(made)
        finally:
            if change is run_a_task:
                state: Any = _state
                state.pop_current_task()

    assert by_celery == [handle.id]
    assert counts(app) == {"celery": 2}


@pytest.mark.anyio
@needs_pipelines
async def test_a_changed_route_is_followed(redis_process: RedisProcess, by_celery: list[str]) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    async with CeleryBackend(app) as backend:
        await backend.launch_task(made)
        app.conf.task_routes = {"one.*": {"queue": "routed"}}
        renew_router(app)
        await backend.launch_task(made)

    assert counts(app) == {"celery": 1, "routed": 1}
    assert by_celery == []


@pytest.mark.anyio
async def test_another_broker_is_left_to_celery(by_celery: list[str]) -> None:
    app = Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)
    made = celery_task(app)
    async with CeleryBackend(app, settings=Settings(allow_in_memory=True)) as backend:
        ids = [(await backend.launch_task(made, (number,))).id for number in range(3)]

    with app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
        messages = [queue.get(timeout=1) for _ in range(3)]
    assert by_celery == ids
    assert [message.payload[0] for message in messages] == [[0], [1], [2]]
    assert all(isinstance(message.properties["timestamp"], int) for message in messages)


@pytest.mark.anyio
@needs_pipelines
async def test_launches_side_by_side_share_round_trips(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    trips: list[int] = []
    original = Pipeline.execute

    def execute(self: Pipeline, *args: Any, **options: Any) -> Any:
        trips.append(len(self.command_stack))
        return original(self, *args, **options)

    monkeypatch.setattr(Pipeline, "execute", execute)
    async with CeleryBackend(app) as backend, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(backend.launch_task, made)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    assert counts(app) == {"celery": 100}
    assert max(trips) >= 50


@pytest.mark.anyio
async def test_a_pipeline_that_is_given_up_costs_nobody_a_message(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch, by_celery: list[str], gate: Gate
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    original = Pipeline.lpush
    calls: list[object] = []

    def lpush(self: Pipeline, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("no room")
        return original(self, *args)

    monkeypatch.setattr(Pipeline, "lpush", lpush, raising=False)
    async with CeleryBackend(app) as backend, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(backend.launch_task, made)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    assert counts(app) == {"celery": 3}
    assert len(by_celery) >= 2


@pytest.mark.anyio
async def test_a_message_that_redis_refuses_fails_its_own_launch_alone(
    redis_process: RedisProcess, gate: Gate
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    wrong = celery_task(app, name="one.wrong", queue="wrong")
    errors: list[str] = []
    with Redis.from_url(redis_process.url) as client:
        client.set("wrong", "no list")

    async def launch(task: Any) -> None:
        try:
            await backend.launch_task(task)
        except BackendUnavailableError as error:
            errors.append(str(error))

    async with CeleryBackend(app) as backend, anyio.create_task_group() as group:
        for task in (made, wrong, made):
            group.start_soon(launch, task)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    assert counts(app) == {"celery": 2}
    assert len(errors) == 1
    assert "WRONGTYPE" in errors[0]


@pytest.mark.anyio
async def test_a_broker_that_went_away_is_told_and_one_that_came_back_is_used(
    redis_process: RedisProcess,
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    async with CeleryBackend(app) as backend:
        await backend.launch_task(made)
        redis_process.stop()
        with pytest.raises(BackendUnavailableError):
            await backend.launch_task(made)
        redis_process.start()
        await backend.launch_task(made)

    assert counts(app) == {"celery": 1}


@pytest.mark.anyio
async def test_who_gives_up_before_the_turn_has_sent_nothing(redis_process: RedisProcess, gate: Gate) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    async with CeleryBackend(app) as backend, anyio.create_task_group() as group:
        group.start_soon(backend.launch_task, made)
        assert await anyio.to_thread.run_sync(gate.reached.wait, WAIT)
        with anyio.move_on_after(0.01) as scope:
            await backend.launch_task(made)
        gate.opened.set()

    assert scope.cancelled_caught
    assert counts(app) == {"celery": 1}


@pytest.mark.anyio
async def test_closing_waits_for_launches_under_way(redis_process: RedisProcess, gate: Gate) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    ids: list[str] = []

    async def launch() -> None:
        ids.append((await backend.launch_task(made)).id)

    async with CeleryBackend(app) as backend, anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(launch)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(backend.close)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    assert len(ids) == 20
    assert counts(app) == {"celery": 20}
    with pytest.raises(ServiceClosedError):
        await backend.launch_task(made)


@needs_pipelines
def test_threads_share_one_service(redis_process: RedisProcess, by_celery: list[str]) -> None:
    app = app_on(redis_process)
    made = celery_task(app)

    def launch() -> None:
        for _ in range(25):
            service.launch_task(made)

    with BlockingTaskService(CeleryBackend(app)) as service:
        threads = [threading.Thread(target=launch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)

    assert counts(app) == {"celery": 100}
    assert by_celery == []


@needs_pipelines
def test_a_forked_process_and_its_parent_both_publish(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    publisher = Publisher(app)

    async def publish() -> None:
        with anyio.fail_after(WAIT):
            assert await publisher.publish(made, Message(str(uuid4()), (), {}))

    anyio.run(publish)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            anyio.run(publish)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    anyio.run(publish, backend="trio")
    publisher.close()

    assert status == 0
    assert counts(app) == {"celery": 3}
