"""What waiting for workflow events costs a Redis server, and what broken connections do to it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import to_thread
from redis import Redis

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import (
    AnyIOBackend,
    BackendUnavailableError,
    Settings,
    TaskService,
    WorkflowClient,
    WorkflowExpiredError,
    WorkflowFailedError,
    create_app,
    workflow,
)
from taskservice.workflow import WorkflowRegistry
from taskservice.workflow.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from taskservice import TaskHandle, WorkflowContext, WorkflowEvent, WorkflowRun
    from taskservice.backends.base import TaskFunction

pytestmark = pytest.mark.anyio

WAIT = 20.0
RUNS = 50
READERS = 1000
QUIET = 1.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A server of our own, without a worker."""
    server = acquire(RedisRequest())
    yield server.url
    server.close()


@pytest.fixture
def server(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as found:
        yield found


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[WorkflowClient]:
    settings = Settings(backend="celery", redis_url=redis_url)
    async with WorkflowClient.from_settings(settings, create_app(settings)) as opened:
        yield opened


def subscribers(server: Redis) -> list[Any]:
    return list(server.client_list(_type="pubsub"))


def commands(server: Redis) -> int:
    return int(server.info("stats")["total_commands_processed"])


async def quiet(server: Redis, seconds: float) -> int:
    """Return how many commands came in the ``seconds`` after those had ended that were under way."""
    with anyio.fail_after(WAIT):
        before = -1
        while (now := commands(server)) - before > 1:
            before = now
            await anyio.sleep(0.2)
    await anyio.sleep(seconds)  # what is measured, not waited for
    return commands(server) - now - 1


async def test_a_thousand_readers_wait_on_one_connection_and_ask_nothing(
    client: WorkflowClient, server: Redis
) -> None:
    ends: list[WorkflowEvent] = []
    begun: list[int] = []
    results: list[str] = []

    async def read(run_id: str) -> None:
        events = client.events(run_id)
        begun.append((await events.__anext__()).id)
        ends.append([event async for event in events][-1])

    async def fail(run_id: str) -> None:
        with pytest.raises(WorkflowFailedError) as failed:
            await client.result(run_id)
        results.append(failed.value.reason)

    run_ids = [await client.start("client.nowhere") for _ in range(RUNS)]
    with anyio.fail_after(2 * WAIT):
        async with anyio.create_task_group() as group:
            for number in range(READERS):
                group.start_soon(read, run_ids[number % RUNS])
            group.start_soon(fail, run_ids[0])
            while len(begun) < READERS:  # noqa: ASYNC110 - a thousand tasks
                await anyio.sleep(0.01)
            idle = await quiet(server, QUIET)
            listening = await to_thread.run_sync(subscribers, server)
            for run_id in run_ids:
                await client.stop(run_id)

    assert len(listening) == 1
    assert idle <= QUIET
    assert begun == [1] * READERS
    assert [end.data["reason"] for end in ends] == ["stopped"] * READERS
    assert results == ["stopped"]


async def waiting(server: Redis) -> None:
    """Return when readers have caught up, and their connection is there to be broken."""
    with anyio.fail_after(WAIT):
        while not await to_thread.run_sync(subscribers, server):  # noqa: ASYNC110 - another thread
            await anyio.sleep(0.01)
        await quiet(server, 0)
    await anyio.wait_all_tasks_blocked()


async def test_a_reader_misses_nothing_while_its_connection_is_broken(
    client: WorkflowClient, server: Redis
) -> None:
    run_id = await client.start("client.nowhere")
    seen: list[WorkflowEvent] = []

    async def read() -> None:
        seen.extend([event async for event in client.events(run_id)])

    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await waiting(server)
            server.client_kill_filter(_type="pubsub")
            await client.stop(run_id)

    assert [(event.id, event.data["status"]) for event in seen] == [(1, "WAITING"), (2, "FAILED")]


async def test_who_waits_for_a_run_whose_data_is_wiped_hears_of_it(
    client: WorkflowClient, server: Redis
) -> None:
    run_id = await client.start("client.nowhere")
    told: list[WorkflowExpiredError] = []

    async def read() -> None:
        with pytest.raises(WorkflowExpiredError) as expired:
            await client.result(run_id)
        told.append(expired.value)

    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await waiting(server)
            server.flushall()
            server.client_kill_filter(_type="pubsub")

    assert [error.run_id for error in told] == [run_id]


class ShakyStore(MemoryStore):
    """A store that cannot be reached while it is told to be so."""

    down = False

    def load(self, run_id: str) -> WorkflowRun | None:
        if self.down:
            raise BackendUnavailableError("redis", "connection refused")

        return super().load(run_id)


async def test_a_reader_that_could_not_reach_its_store_goes_on_when_it_can() -> None:
    store = ShakyStore()
    async with TaskService(AnyIOBackend()) as service, WorkflowClient(service, store=store) as client:
        run_id = await client.start("client.nowhere")
        with pytest.raises(WorkflowFailedError, match="unknown_workflow"):
            await client.result(run_id, timeout=WAIT)
        events = client.events(run_id)
        store.down = True
        with pytest.raises(BackendUnavailableError):
            await events.__anext__()
        store.down = False
        seen = [event.id async for event in events]

    assert seen == [1, 2, 3]


class BrokenService(TaskService):
    """A service whose broker is gone while it is told to be so."""

    broken = False

    async def launch_task(self, func: TaskFunction, /, *args: Any, **kwargs: Any) -> tuple[str, TaskHandle]:
        if self.broken:
            raise BackendUnavailableError("celery", "connection refused")

        return await super().launch_task(func, *args, **kwargs)


async def test_an_answer_counts_though_its_message_could_not_be_sent() -> None:
    def ask(ctx: WorkflowContext) -> str:
        return str(ctx.ask("really?"))

    registry = WorkflowRegistry()
    asking = workflow("asking", deadlines={"busy": 0.3}, registry=registry)(ask)
    settings = Settings(workflow_sweep_interval=timedelta(milliseconds=10))
    async with (
        BrokenService(AnyIOBackend()) as service,
        WorkflowClient(service, settings=settings, registry=registry) as client,
    ):
        run_id = await client.start(asking)
        async for event in client.events(run_id):
            if event.kind == "question":
                break
        service.broken = True
        await client.send_input(run_id, "yes")
        service.broken = False

        assert await client.result(run_id, timeout=WAIT) == "yes"
