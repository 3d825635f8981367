"""What `health` and ``taskservice status`` read, and from where."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from redis import Redis

from taskservice import AnyIOBackend, CeleryBackend, PoolState, Settings, TaskService, create_app, task
from taskservice.backends.overview import read_overview
from taskservice.backends.queues import read_queues
from taskservice.health import QueueHealth, pool_state
from taskservice.heartbeats import RunningRun, WorkerHeartbeat, heartbeat_key
from taskservice.worker.canary import Canary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.taskservice.conftest import RedisProcess

BEAT = WorkerHeartbeat(
    worker="w1",
    pid=7,
    queues=("celery", "mail"),
    pool="prefork",
    slots=2,
    running=(RunningRun(id="r1", task="shop.add", since=1.0),),
    at=13.0,
    version="1",
    pool_state=PoolState.OK,
    answered=12.0,
)


@pytest.fixture
def settings(redis_process: RedisProcess) -> Settings:
    return Settings(redis_url=redis_process.url, backend="celery")


@pytest.fixture
def client(redis_process: RedisProcess) -> Iterator[Redis]:
    with Redis.from_url(redis_process.url) as client:
        yield client


def beat(client: Redis, *beats: WorkerHeartbeat) -> None:
    for given in beats:
        client.set(heartbeat_key("taskservice:", given.worker), given.to_json())


@pytest.mark.parametrize(
    ("running", "silent", "state"),
    [(0, 0.0, "ok"), (1, 60.0, "ok"), (2, 60.0, "busy"), (2, 60.1, "hung"), (0, 60.1, "hung")],
)
def test_a_pool_is_hung_by_its_silence_alone(running: int, silent: float, state: str) -> None:
    assert pool_state(slots=2, running=running, silent=silent, timeout=60.0) == state


def test_one_pool_that_lives_is_enough(client: Redis, settings: Settings) -> None:
    hung = replace(BEAT, worker="w2", pool_state=PoolState.HUNG)
    app = create_app(settings)

    beat(client, hung, replace(hung, worker="w3"))
    assert not read_overview(app, settings, seconds=10).healthy
    beat(client, BEAT)

    found = read_overview(app, settings, seconds=10)
    assert found.healthy
    assert [worker.pool_state for worker in found.health().workers] == ["ok", "hung", "hung"]


def test_a_worker_of_an_older_version_is_not_taken_for_hung(client: Redis, settings: Settings) -> None:
    old = json.loads(BEAT.to_json())
    for name in ("pool_state", "canary_sent", "answered"):
        del old[name]
    client.set(heartbeat_key("taskservice:", "w1"), json.dumps(old))

    found = read_overview(create_app(settings), settings, seconds=10)

    assert found.healthy
    assert found.health().workers[0].pool_state is PoolState.UNKNOWN


@pytest.mark.anyio
async def test_health_has_workers_and_queues(anyio_backend: str, client: Redis, settings: Settings) -> None:
    beat(client, BEAT)
    client.lpush("mail", "newest", "oldest")

    async with TaskService.from_settings(settings) as service:
        health = await service.health()

    (worker,) = health.workers
    assert anyio_backend
    assert (worker.name, worker.slots, worker.running, worker.pool_state) == ("w1", 2, 1, "ok")
    assert (worker.longest, worker.silent) == (12.0, 1.0)
    assert worker.age > 0
    assert [(queue.name, queue.depth, queue.oldest_age) for queue in health.queues] == [
        ("celery", 0, None),
        ("mail", 2, None),
    ]
    assert health.healthy
    assert health.detail.endswith("worker w1")


@pytest.mark.anyio
async def test_without_settings_the_app_says_where_to_look(
    anyio_backend: str, client: Redis, settings: Settings
) -> None:
    beat(client, BEAT)
    app = Celery(broker=settings.redis_url, backend=settings.redis_url, set_as_current=False)

    async with CeleryBackend(app) as backend:
        health = await backend.health()

    assert anyio_backend
    assert [worker.name for worker in health.workers] == ["w1"]


@pytest.mark.anyio
async def test_no_worker_is_not_healthy(anyio_backend: str, settings: Settings) -> None:
    async with TaskService.from_settings(settings) as service:
        health = await service.health()

    assert anyio_backend
    assert not health.healthy
    assert health.detail.endswith("no worker; start one with `taskservice worker`")


def test_the_oldest_message_is_the_one_that_is_taken_next(client: Redis, settings: Settings) -> None:
    app = create_app(settings)
    now = int(time.time())
    beat(client, BEAT)
    for age, priority in [(50, 0), (10, 0), (200, 9), (7, 3)]:
        app.send_task("no_matter", ["x" * 9000], queue="mail", priority=priority, timestamp=now - age)

    (_, mail) = read_overview(app, settings, seconds=10).queues

    assert mail.depth == 4
    assert mail.oldest_age is not None
    assert 200 <= mail.oldest_age < 260


@pytest.mark.parametrize("stored", ["rubbish", '{"properties": {"timestamp": "soon"}}', '{"properties": {}}'])
def test_a_message_that_does_not_tell_its_instant_has_no_age(
    client: Redis, settings: Settings, stored: str
) -> None:
    beat(client, BEAT)
    client.lpush("mail", stored)

    (_, mail) = read_overview(create_app(settings), settings, seconds=10).queues

    assert (mail.depth, mail.oldest_age) == (1, None)


@pytest.mark.anyio
async def test_in_process_the_threads_in_use_are_told(anyio_backend: str) -> None:
    import threading

    import anyio

    started, gate = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        gate.wait(20)

    async with AnyIOBackend(threads=1) as backend:
        handle = await backend.launch_task(task(hold))
        await anyio.to_thread.run_sync(started.wait, 20)
        health = await backend.health()
        gate.set()
        await handle.result(20)
        after = await backend.health()

    assert anyio_backend
    assert health.detail == "in process, 1 runs not over, 1 of 1 threads in use"
    assert health.workers[0].pool_state is PoolState.BUSY
    assert (after.workers[0].running, after.workers[0].pool_state) == (0, PoolState.OK)


class FakePool:
    """Keeps what it is given until it is told to answer."""

    uses_semaphore = True
    active = True
    num_processes = 1

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.jobs: list[Callable[[object], None]] = []

    def apply_async(self, _: object, *, callback: Callable[[object], None], **__: object) -> object:
        self.jobs.append(callback)
        return self


class FakeController:
    pool_putlocks = True

    def __init__(self) -> None:
        self.semaphore = LaxBoundedSemaphore(2)


class FakeConsumer:
    hub = object()

    def __init__(self, kind: str = "prefork") -> None:
        self.pool = type("TaskPool", (FakePool,), {"__module__": f"celery.concurrency.{kind}"})()
        self.pool.uses_semaphore = kind == "prefork"
        self.controller = FakeController()


@pytest.mark.parametrize(
    ("kind", "expected"), [("prefork", [1, 1, 1, 2, 2, 2]), ("thread", [1, 1, 1, 1, 1, 1])]
)
def test_one_canary_is_out_at_a_time_until_it_counts_as_lost(kind: str, expected: list[int]) -> None:
    now = [0.0]
    consumer = FakeConsumer(kind)
    canary = Canary(consumer, Settings(canary_timeout=60), clock=lambda: now[0])  # type: ignore[arg-type] # seconds
    sent = []

    for now[0] in (2.0, 4.0, 20.0, 22.0, 24.0, 61.0):
        canary.tick()
        sent.append(len(consumer.pool.jobs))

    assert sent == expected
    assert canary.pulse(slots=1, running=()).state is PoolState.HUNG
    consumer.pool.jobs[0](None)
    assert canary.pulse(slots=1, running=()).state is PoolState.OK


@pytest.mark.parametrize("running", [(), ("r2",)])
def test_a_run_that_ends_shows_that_the_pool_lives(running: tuple[str, ...]) -> None:
    now = [0.0]
    canary = Canary(FakeConsumer(), Settings(), clock=lambda: now[0])
    canary.pulse(slots=1, running=("r1",))

    now[0] = 100.0

    assert canary.pulse(slots=1, running=running).state is not PoolState.HUNG
    now[0] = 161.0
    assert canary.pulse(slots=1, running=running).state is PoolState.HUNG


def test_another_broker_tells_how_much_waits_and_not_since_when() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    for _ in range(2):
        app.send_task("no_matter", queue="overview", timestamp=1)

    found = read_queues(app, ["nowhere", "overview"], now=2.0, seconds=1.0)

    assert found == (QueueHealth(name="nowhere", depth=0), QueueHealth(name="overview", depth=2))


def test_a_canary_waits_for_a_free_slot_as_a_run_does() -> None:
    consumer = FakeConsumer()
    slots = consumer.controller.semaphore
    now = [0.0]
    canary = Canary(consumer, Settings(), clock=lambda: now[0])
    for _ in range(2):
        slots.acquire(lambda: None)

    now[0] = 2.0
    canary.tick()
    assert consumer.pool.jobs == []
    slots.release()

    assert len(consumer.pool.jobs) == 1
    assert slots.value == 0


def test_a_pool_that_closes_gets_the_slot_back() -> None:
    consumer = FakeConsumer()
    consumer.pool.apply_async = lambda *_, **__: None
    now = [0.0]
    canary = Canary(consumer, Settings(), clock=lambda: now[0])

    now[0] = 2.0
    canary.tick()

    assert consumer.controller.semaphore.value == 2
