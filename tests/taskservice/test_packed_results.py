"""Runs of a packed message, awaited: on the channel of their pack, until they go on alone."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import to_thread
from celery.app.trace import trace_task

from taskservice import CeleryBackend, Settings, TaskRegistry, TaskState, task
from taskservice.backends.packed import register_packed
from taskservice.backends.packed_results import ResultBuffer
from tests.taskservice import messages
from tests.taskservice.messages import client_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery import Celery

    from taskservice import TaskHandle
    from tests.taskservice.conftest import RedisProcess

pytestmark = pytest.mark.anyio
REGISTRY = TaskRegistry()
WAIT = 15.0
LOST = {"exc_type": "LookupError", "exc_message": ["lost"], "exc_module": "builtins"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@task(registry=REGISTRY, name="packed.add", queue="sums")
def add(left: int, right: int = 0) -> int:
    return left + right


def app_on(redis: RedisProcess, **conf: Any) -> Celery:
    app = messages.app_on(redis, **conf)
    register_packed(app)
    return app


def message_of(app: Celery) -> tuple[str, list[Any]]:
    """Take the pack that waits; return its id and its arguments."""
    stored = json.loads(client_of(app).rpop("sums"))
    args, _, _ = json.loads(b64decode(stored["body"]))
    return str(stored["headers"]["id"]), args


def work(app: Celery, pack_id: str, args: list[Any]) -> None:
    """Run a packed message as a worker's process does."""
    trace: Any = trace_task
    request = {"id": pack_id, "root_id": pack_id, "delivery_info": {}, "hostname": "w1", "origin": "here"}
    trace(app.tasks["taskservice.packed"], pack_id, args, {}, request, app=app)


@asynccontextmanager
async def awaited(
    app: Celery, found: dict[str, Any], count: int = 3
) -> AsyncIterator[tuple[list[TaskHandle], str, list[Any]]]:
    """Have ``count`` runs of one pack waited for, already on its channel; all have come in the end."""

    async def wait(handle: TaskHandle) -> None:
        try:
            found[handle.id] = await handle.result(WAIT)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            found[handle.id] = error

    async with CeleryBackend(app) as backend:
        calls = [(number,) for number in range(count)]
        handles = await backend.launch_many(add, calls, per_message=count)
        pack_id, args = message_of(app)
        async with anyio.create_task_group() as group:
            for handle in handles:
                group.start_soon(wait, handle)
            await followed(app, pack_id)
            yield handles, pack_id, args


async def followed(app: Celery, run_id: str) -> None:
    channel = f"celery-task-meta-{run_id}".encode()
    with anyio.fail_after(WAIT):
        while channel not in client_of(app).pubsub_channels():  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)


def store_quietly(app: Celery, run_id: str, result: Any, state: str) -> None:
    """Store as Celery does, and publish nothing: what is published may be on its way still."""
    stored = {"task_id": run_id, "status": state, "result": result, "traceback": None, "children": []}
    client_of(app).set(f"celery-task-meta-{run_id}", json.dumps(stored))


@pytest.mark.parametrize("conf", [{}, {"result_compression": "gzip"}])
async def test_runs_of_a_pack_are_waited_for_on_one_channel(
    redis_process: RedisProcess, conf: dict[str, Any]
) -> None:
    app = app_on(redis_process, **conf)
    found: dict[str, Any] = {}

    async with awaited(app, found) as (handles, pack_id, args):
        assert client_of(app).pubsub_channels() == [f"celery-task-meta-{pack_id}".encode()]
        await to_thread.run_sync(work, app, pack_id, args)

    assert [found[handle.id] for handle in handles] == [0, 1, 2]


async def test_who_knows_a_runs_id_alone_is_told_as_well(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    values: list[int] = []

    async with awaited(app, {}) as (handles, pack_id, args), CeleryBackend(app) as another:
        handle = await another.get_task(handles[1].id)

        async def wait() -> None:
            values.append(await handle.result(WAIT))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await followed(app, handle.id)
            await to_thread.run_sync(work, app, pack_id, args)

    assert values == [1]


async def test_a_run_that_is_retried_alone_reaches_its_waiter(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    found: dict[str, Any] = {}

    async with awaited(app, found) as (handles, pack_id, _):
        retried = handles[1].id
        with ResultBuffer(backend, pack_id):
            backend.mark_as_retry(retried, ValueError("again"))
        await followed(app, retried)
        backend.store_result(retried, "from the retry", "SUCCESS")
        with ResultBuffer(backend, pack_id):
            backend.store_result(handles[0].id, "first", "SUCCESS")
            backend.store_result(handles[2].id, "last", "SUCCESS")

    assert [found[handle.id] for handle in handles] == ["first", "from the retry", "last"]


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
async def test_a_retry_is_never_stored_over_what_came_of_it(redis_process: RedisProcess, state: str) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    # By the worker that took the retry.
    backend.store_result("a", ValueError("late") if state == "FAILURE" else 1, state)
    with ResultBuffer(backend, "pack"):
        backend.mark_as_retry("a", ValueError("again"))

    assert json.loads(client_of(app).get("celery-task-meta-a"))["status"] == state


async def test_a_run_that_a_worker_cancelled_is_told(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    found: dict[str, Any] = {}

    async with awaited(app, found, count=2) as (handles, pack_id, _):
        with ResultBuffer(backend, pack_id):
            backend.mark_as_revoked(handles[0].id, "cancelled")
            backend.store_result(handles[1].id, 1, "SUCCESS")

    assert type(found[handles[0].id]).__name__ == "RunCancelledError"
    assert found[handles[1].id] == 1


async def test_a_redis_that_refuses_scripts_is_written_to_plainly(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    found: dict[str, Any] = {}

    async with awaited(app, found) as (handles, pack_id, args):
        client_of(app).execute_command("ACL", "SETUSER", "default", "-@scripting")
        await to_thread.run_sync(work, app, pack_id, args)

    assert [found[handle.id] for handle in handles] == [0, 1, 2]


async def test_a_task_that_the_worker_does_not_know_is_told_to_all(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    found: dict[str, Any] = {}

    async with awaited(app, found) as (handles, pack_id, args):
        await to_thread.run_sync(work, app, pack_id, ["nobody.knows", args[1]])

    assert {type(found[handle.id]).__name__ for handle in handles} == {"NotRegistered"}


async def test_a_pack_that_is_lost_leaves_a_retried_run_to_itself(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    found: dict[str, Any] = {}

    async with awaited(app, found, count=2) as (handles, pack_id, _):
        backend.store_result(handles[0].id, None, "RETRY")
        backend.mark_as_failure(pack_id, LookupError("lost"))
        await followed(app, handles[0].id)
        backend.store_result(handles[0].id, "from the retry", "SUCCESS")

    assert found[handles[0].id] == "from the retry"
    assert isinstance(found[handles[1].id], LookupError)


async def test_a_retry_is_not_lost_with_its_pack_to_whoever_looks_for_another_run(
    redis_process: RedisProcess,
) -> None:
    app = app_on(redis_process)
    values: list[int] = []

    async with CeleryBackend(app) as backend:
        handles = await backend.launch_many(add, [(1,), (2,)], per_message=2)
        pack_id, _ = message_of(app)

        async def wait() -> None:
            values.append(await handles[0].result(WAIT))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await followed(app, pack_id)
            # Stored, and not told yet.
            store_quietly(app, handles[0].id, None, "RETRY")
            store_quietly(app, pack_id, LOST, "FAILURE")
            with pytest.raises(LookupError, match="lost"):
                await handles[1].result(WAIT)
            assert await handles[0].status() is TaskState.RETRY
            app.backend.store_result(handles[0].id, 7, "SUCCESS")

    assert values == [7]


@pytest.mark.parametrize("state", ["RETRY", "STARTED"])
async def test_what_goes_on_alone_is_not_lost_with_its_pack(redis_process: RedisProcess, state: str) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        handles = await backend.launch_many(add, [(1,), (2,)], per_message=2)
        pack_id, _ = message_of(app)
        app.backend.store_result(handles[0].id, None, state)
        app.backend.mark_as_failure(pack_id, LookupError("lost"))

        assert await handles[0].status() is TaskState(state)
        assert await handles[1].status() is TaskState.FAILURE


async def test_where_results_are_polled_for_a_retry_is_not_lost_with_its_pack(
    redis_process: RedisProcess,
) -> None:
    app = app_on(redis_process, result_backend="cache+memory://")
    backend: Any = app.backend
    alone = Settings(redis_url=redis_process.url, allow_in_memory=True)
    found: list[int] = []

    async with CeleryBackend(app, settings=alone) as service:
        handles = await service.launch_many(add, [(1,), (2,)], per_message=2)
        with messages.broker_of(app) as broker:
            pack_id = json.loads(str(broker.rpop("sums")))["headers"]["id"]
        backend.store_result(handles[0].id, None, "RETRY")
        backend.store_result(pack_id, LookupError("lost"), "FAILURE")

        async def wait() -> None:
            found.append(await handles[0].result(WAIT))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            with pytest.raises(LookupError, match="lost"):
                await handles[1].result(WAIT)
            backend.store_result(handles[0].id, 7, "SUCCESS")

    assert found == [7]


async def test_a_backend_that_threads_share_sends_the_runs_off(redis_process: RedisProcess) -> None:
    app = app_on(redis_process, result_backend_thread_safe=True)
    found: dict[str, Any] = {}

    async with awaited(app, found) as (handles, pack_id, args):
        await to_thread.run_sync(partial(work, app, pack_id, args))

    assert [found[handle.id] for handle in handles] == [0, 1, 2]
