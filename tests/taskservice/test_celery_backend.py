"""What only the Celery back end does; workers are played by storing results."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest
from celery import Celery

from taskservice import (
    BackendUnavailableError,
    CeleryBackend,
    ConfigurationError,
    LaunchOptions,
    RetryPolicy,
    ServiceClosedError,
    Settings,
    TaskRegistry,
    TaskService,
    TaskState,
    create_app,
    task,
)
from taskservice.backends.probing import visibility_timeout

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from tests.taskservice.conftest import RedisProcess

pytestmark = pytest.mark.anyio

WAIT = 15.0
REGISTRY = TaskRegistry()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@task(registry=REGISTRY, name="celery_backend.add", queue="sums", retry=RetryPolicy())
def add(left: int, right: int) -> int:
    return left + right


def app_on(redis: RedisProcess) -> Celery:
    return create_app(Settings(redis_url=redis.url))


def store(app: Celery, run_id: str, value: object, state: str = "SUCCESS") -> None:
    backend: Any = app.backend
    backend.store_result(run_id, value, state)


@pytest.mark.parametrize(
    "setting",
    [
        {"task_serializer": "pickle"},
        {"result_serializer": "pickle"},
        {"accept_content": ["json", "pickle"]},
        {"result_accept_content": ["application/x-python-serialize"]},
    ],
)
async def test_pickle_is_refused(setting: dict[str, object]) -> None:
    app = Celery("unsafe", set_as_current=False)
    app.conf.update(setting)

    with pytest.raises(ConfigurationError, match=f"pickle is refused.*{next(iter(setting))}"):
        CeleryBackend(app)


async def test_an_app_without_a_result_backend_says_so(redis_process: RedisProcess) -> None:
    app = Celery("disabled", broker=redis_process.url, set_as_current=False)
    async with CeleryBackend(app) as backend:
        handle = await backend.launch_task(add, [1, 2])

        with pytest.raises(ConfigurationError, match="set result_backend"):
            await handle.result(1)


async def test_a_broker_that_is_away_is_told_at_launch(closed_port: int) -> None:
    app = create_app(Settings(redis_url=f"redis://127.0.0.1:{closed_port}/0"))
    async with CeleryBackend(app) as backend:
        assert not (await backend.health()).healthy

        with pytest.raises(BackendUnavailableError, match="celery back end"):
            await backend.launch_task(add, [1, 2])


async def test_health_is_bounded_when_the_broker_is_silent(silent_port: int) -> None:
    app = create_app(Settings(redis_url=f"redis://127.0.0.1:{silent_port}/0"))
    async with CeleryBackend(app) as backend:
        with anyio.fail_after(3):
            assert not (await backend.health()).healthy


async def test_publishing_does_not_subscribe_for_the_result(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        await backend.launch_task(add, [1, 2])
        client = client_of(app)

        assert client.pubsub_channels() == []
        assert client.llen("sums") == 1


async def test_celery_itself_still_subscribes(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        await backend.launch_task(add, [1, 2])
        result: AsyncResult[Any] = app.tasks[add.name].delay(1, 2)

        await until_channels(app, 1)
        result.forget()


async def test_a_result_that_was_there_before_is_found(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    run_id = str(uuid4())
    store(app, run_id, 5)

    async with CeleryBackend(app) as backend:
        assert await (await backend.get_task(run_id)).result(WAIT) == 5


async def test_progress_wakes_nobody(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    run_id = str(uuid4())
    async with CeleryBackend(app) as backend, anyio.create_task_group() as group:
        handle = await backend.get_task(run_id)
        results: list[int] = []

        async def wait() -> None:
            results.append(await handle.result(WAIT))

        group.start_soon(wait)
        store(app, run_id, {"done": 1}, "PROGRESS")
        assert await handle.status() is TaskState.STARTED
        assert results == []
        store(app, run_id, 5)

    assert results == [5]


async def test_waiters_survive_a_restart_of_redis(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    run_id = str(uuid4())
    results: list[int] = []
    async with CeleryBackend(app) as backend:

        async def wait() -> None:
            results.append(await (await backend.get_task(run_id)).result(WAIT))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until_channels(app, 1)
            await anyio.to_thread.run_sync(redis_process.stop)
            await anyio.to_thread.run_sync(redis_process.start)
            store(app, run_id, 5)

    assert results == [5]


async def test_a_channel_is_left_when_nobody_waits(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        waiting = await backend.get_task(str(uuid4()))
        with anyio.move_on_after(0.05):
            await waiting.result()
        run_id = str(uuid4())
        store(app, run_id, 5)
        await (await backend.get_task(run_id)).result(WAIT)

        await until_channels(app, 0)


async def test_a_channel_is_left_when_an_iteration_ends_early(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    ended, waiting = str(uuid4()), str(uuid4())
    store(app, ended, 5)
    async with TaskService(CeleryBackend(app)) as service:
        handles = [await service.get_task(run_id) for run_id in (waiting, ended)]
        completed = service.as_completed(handles)

        with anyio.fail_after(WAIT):
            assert (await anext(completed)).id == ended
        completed.close()

        await until_channels(app, 0)


async def test_closing_tells_those_who_wait(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    errors: list[BaseException] = []
    async with CeleryBackend(app) as backend, anyio.create_task_group() as group:

        async def wait() -> None:
            try:
                await (await backend.get_task(str(uuid4()))).result(WAIT)
            except ServiceClosedError as error:
                errors.append(error)

        group.start_soon(wait)
        await until_channels(app, 1)
        await backend.close()

    assert len(errors) == 1
    assert "taskservice-results" not in {thread.name for thread in threading.enumerate()}


async def test_another_result_backend_is_polled(redis_process: RedisProcess) -> None:
    app = Celery(
        "polled",
        broker=redis_process.url,
        backend="cache+memory://",
        set_as_current=False,
    )
    alone = Settings(redis_url=redis_process.url, allow_in_memory=True)
    async with CeleryBackend(app, settings=alone) as backend, anyio.create_task_group() as group:
        run_id = str(uuid4())
        results: list[int] = []

        async def wait() -> None:
            results.append(await (await backend.get_task(run_id)).result(WAIT))

        group.start_soon(wait)
        store(app, run_id, 5)

    assert results == [5]


def client_of(app: Celery) -> Any:
    backend: Any = app.backend
    return backend.client


async def until_channels(app: Celery, count: int) -> None:
    client = client_of(app)
    with anyio.fail_after(WAIT):
        while len(client.pubsub_channels()) != count:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)


@task(
    registry=REGISTRY,
    name="celery_backend.careful",
    queue="sums",
    priority=6,
    expires=120,
    soft_time_limit=10,
    time_limit=20,
    acks_late=True,
)
def careful() -> None: ...


@task(registry=REGISTRY, name="celery_backend.careful_async", soft_time_limit=10, time_limit=20)
async def careful_async() -> None: ...


def sent(app: Celery, key: str) -> dict[str, Any]:
    payload = client_of(app).lpop(key)
    assert payload is not None, client_of(app).keys()
    found: dict[str, Any] = json.loads(payload)
    return found


async def test_the_tasks_options_are_celerys_options(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        await backend.launch_task(careful)
        await backend.launch_task(add, [1, 2])

    message = sent(app, "sums\x06\x166")
    headers = message["headers"]
    assert message["properties"]["priority"] == 6
    assert headers["timelimit"] == [20, 10]
    expires = datetime.fromisoformat(headers["expires"]) - datetime.now(tz=UTC)
    assert 110 < expires.total_seconds() <= 120
    assert app.tasks[careful.name].acks_late is True
    assert app.tasks[add.name].acks_late is app.conf.task_acks_late


async def test_the_options_of_a_call_stand_over_the_tasks(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    eta = datetime(2999, 1, 1, tzinfo=UTC)
    app.conf.broker_transport_options["visibility_timeout"] = 10**11
    options = LaunchOptions(eta=eta, expires=eta + timedelta(seconds=1), priority=0, queue="elsewhere")
    async with CeleryBackend(app) as backend:
        await backend.launch_task(careful, options=options)

    headers = sent(app, "elsewhere")["headers"]
    assert datetime.fromisoformat(headers["eta"]) == eta
    assert datetime.fromisoformat(headers["expires"]) == eta + timedelta(seconds=1)


async def test_an_async_task_is_limited_in_its_loop_and_killed_later(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        await backend.launch_task(careful_async)

    assert sent(app, "celery")["headers"]["timelimit"] == [25.0, None]


@pytest.mark.parametrize(("transport_options", "limit"), [({}, 3600), ({"visibility_timeout": 60}, 60)])
async def test_an_eta_beyond_the_visibility_timeout_is_refused_before_anything_is_sent(
    redis_process: RedisProcess, transport_options: dict[str, int], limit: int
) -> None:
    app = Celery("own", broker=redis_process.url, backend=redis_process.url, set_as_current=False)
    app.conf.broker_transport_options = transport_options
    async with CeleryBackend(app) as backend:
        with pytest.raises(ConfigurationError, match=rf"visibility_timeout is {limit} s.*more than once"):
            await backend.launch_task(add, [1, 2], options=LaunchOptions(countdown=limit + 1))
        assert client_of(app).keys() == []

        await backend.launch_task(add, [1, 2], options=LaunchOptions(countdown=limit - 1))
    assert client_of(app).llen("sums") == 1


def test_another_broker_has_no_visibility_timeout() -> None:
    assert visibility_timeout(Celery("rabbit", broker="amqp://127.0.0.1:1//", set_as_current=False)) is None
