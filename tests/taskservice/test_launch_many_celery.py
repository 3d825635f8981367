"""Many messages at once on Celery: what is stored, when Celery sends by itself, and packed messages."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta
from functools import wraps
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.app.task import Task
from celery.app.trace import trace_task
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import NotRegistered
from kombu import Producer
from redis import Redis
from redis.client import Pipeline

from taskservice import (
    BackendUnavailableError,
    CeleryBackend,
    ConfigurationError,
    PackedNotRegisteredError,
    RunCancelledError,
    Settings,
    TaskRegistry,
    TaskState,
    create_app,
    task,
)
from taskservice.backends import bulk
from taskservice.backends.bulk import Message, publish_all
from taskservice.backends.packed import packed_task, register_packed
from taskservice.backends.packed_results import ResultBuffer
from taskservice.backends.versions import KOMBU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskservice.runs import TaskHandle
    from tests.taskservice.conftest import RedisProcess

REGISTRY = TaskRegistry()
needs_pipelines = pytest.mark.skipif(
    KOMBU < (5, 7), reason="before 5.7 kombu has no pipelines of messages: Celery publishes each"
)
WAIT = 15.0
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMESTAMP = re.compile(r'"timestamp": \d{10}\b')
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+\+00:00")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@task(registry=REGISTRY, name="many.add", queue="sums")
def add(left: int, right: int = 0) -> int:
    if left < 0:
        raise ValueError(left)
    return left + right


def app_on(redis: RedisProcess, **conf: Any) -> Celery:
    app = create_app(Settings(redis_url=redis.url))
    app.conf.update(conf)
    return app


def celery_task(app: Celery, **options: Any) -> Task[..., Any]:
    def plain(*args: Any, **kwargs: Any) -> int:
        return len(args) + len(kwargs)

    register: Any = app.task(name="many.plain", shared=False, **options)
    made: Task[..., Any] = register(plain)
    return app.tasks[made.name]


def client_of(app: Celery) -> Any:
    backend: Any = app.backend
    return backend.client


def broker_of(app: Celery) -> Redis:
    """The broker without Celery's key prefix."""
    made: Redis = Redis.from_url(app.conf.broker_url, decode_responses=True)
    return made


def lists(app: Celery) -> dict[str, list[str]]:
    """Every list in the broker, oldest message first; ids and instants, which differ, are blotted out."""
    with broker_of(app) as broker:
        keys = [key for key in broker.keys("*") if broker.type(key) == "list"]
        return {key: [blotted(item) for item in broker.lrange(key, 0, -1)[::-1]] for key in sorted(keys)}


def blotted(text: str) -> str:
    return TIMESTAMP.sub('"timestamp": 0', INSTANT.sub("<instant>", UUID.sub("<id>", text)))


def empty(app: Celery) -> None:
    with broker_of(app) as broker:
        broker.delete(*lists(app))


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1, 2.5), {}),
    (("zwölf", [1, {"a": None}]), {"key": "value"}),
    ((), {}),
    ((True,), {"n": 10**30}),
]


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


@needs_pipelines
def test_two_thousand_messages_take_a_handful_of_round_trips(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    trips: list[int] = []
    original = Pipeline.execute

    def execute(self: Pipeline, **options: Any) -> Any:
        trips.append(len(self.command_stack))
        return original(self, **options)

    monkeypatch.setattr(Pipeline, "execute", execute)
    publish_all(app, made, [Message(str(uuid4()), (number,), {}) for number in range(2000)], {})

    assert trips[-4:] == [500] * 4
    assert len(lists(app)["celery"]) == 2000


@needs_pipelines
def test_large_messages_share_a_round_trip_by_size(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    monkeypatch.setattr(bulk, "BATCH_BYTES", 2500)
    trips: list[int] = []
    original = Pipeline.execute

    def execute(self: Pipeline, **options: Any) -> Any:
        trips.append(len(self.command_stack))
        return original(self, **options)

    monkeypatch.setattr(Pipeline, "execute", execute)
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


def test_a_result_seam_that_is_gone_is_told(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    monkeypatch.delattr(BaseKeyValueStoreBackend, "_store_result")
    monkeypatch.delattr("celery.backends.base.Backend._store_result", raising=False)

    with pytest.raises(ConfigurationError, match=r"RedisBackend\._store_result is gone"):
        ResultBuffer(backend, "pack")


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


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit", "rate_limit"])
@pytest.mark.anyio
async def test_a_limit_per_message_refuses_packing(redis_process: RedisProcess, limit: str) -> None:
    app = app_on(redis_process)
    value: Any = "5/s" if limit == "rate_limit" else 5
    made = celery_task(app, **{limit: value})
    async with CeleryBackend(app) as backend:
        with pytest.raises(ConfigurationError, match=f"launch 'many.plain' with per_message=1: its {limit}"):
            await backend.launch_many(made, [(1,)], per_message=2)

        assert lists(app) == {}
        assert len(await backend.launch_many(made, [(1,)])) == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"acks_late": False}, "taskservice.packed"),
        ({"acks_late": True, "reject_on_worker_lost": False}, "taskservice.packed.late"),
        ({}, "taskservice.packed.late.requeued"),
    ],
)
def test_a_packed_message_is_acknowledged_as_its_task_is(
    redis_process: RedisProcess, options: dict[str, bool], name: str
) -> None:
    app = app_on(redis_process)

    found = packed_task(app, celery_task(app, **options))

    assert found.name == name
    assert found.acks_late == options.get("acks_late", True)
    if found.acks_late:
        assert found.reject_on_worker_lost == options.get("reject_on_worker_lost", True)


@pytest.mark.anyio
async def test_packs_go_where_their_task_goes(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    async with CeleryBackend(app) as backend:
        handles = await backend.launch_many(add, [(number,) for number in range(5)], per_message=2)

    stored = [json.loads(item) for item in lists(app)["sums"]]
    assert len(handles) == 5
    assert [item["headers"]["task"] for item in stored] == ["taskservice.packed.late.requeued"] * 3
    assert list(lists(app)) == ["sums"]


def pack_id_of(app: Celery) -> str:
    client = client_of(app)
    return str(json.loads(client.lindex("sums", 0))["headers"]["id"])


@pytest.mark.anyio
async def test_a_worker_that_knows_no_packs_is_told_by_every_handle(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend_of: Any = app.backend
    async with CeleryBackend(app) as backend:
        first, second = await backend.launch_many(add, [(1,), (2,)], per_message=2)
        # As Consumer.on_unknown_task stores it.
        backend_of.mark_as_failure(pack_id_of(app), NotRegistered("taskservice.packed"))

        with pytest.raises(PackedNotRegisteredError, match=r"knows no task 'taskservice\.packed'"):
            await first.result(WAIT)
        assert isinstance(await second.exception(), PackedNotRegisteredError)


@pytest.mark.anyio
async def test_a_lost_pack_is_lost_for_the_calls_without_a_result_only(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend_of: Any = app.backend
    async with CeleryBackend(app) as backend:
        done, lost = await backend.launch_many(add, [(1,), (2,)], per_message=2)
        backend_of.store_result(done.id, 1, "SUCCESS")
        backend_of.mark_as_failure(pack_id_of(app), WorkerLostError("gone"))

        assert await done.result(WAIT) == 1
        with pytest.raises(WorkerLostError, match="gone"):
            await lost.result(WAIT)


@pytest.mark.anyio
async def test_an_expired_pack_revokes_its_calls(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend_of: Any = app.backend
    async with CeleryBackend(app) as backend:
        (handle,) = await backend.launch_many(add, [(1,)], per_message=2)
        backend_of.mark_as_revoked(pack_id_of(app), "expired")

        assert await handle.status() is TaskState.REVOKED
        with pytest.raises(RunCancelledError, match=handle.id):
            await handle.result(WAIT)


def traced(found: Task[..., Any], run_id: str, *args: Any, **options: Any) -> None:
    trace: Any = trace_task
    trace(found, run_id, *args, **options)


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


def deliver(
    app: Celery, calls: list[list[Any]], *, name: str = "many.plain", redelivered: bool = False
) -> None:
    """Run a packed message as a worker's process does."""
    register_packed(app)
    pack_id = str(uuid4())
    info = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": redelivered}
    request = {"id": pack_id, "root_id": pack_id, "delivery_info": info, "hostname": "w1", "origin": "here"}
    traced(app.tasks["taskservice.packed"], pack_id, [name, calls], {}, request, app=app)


def meta_of(app: Celery, run_id: str) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(client_of(app).get(f"celery-task-meta-{run_id}"))
    return meta


@pytest.mark.parametrize("conf", [{}, {"result_extended": False}, {"result_expires": None}])
def test_results_from_a_pack_are_stored_as_those_of_calls_alone(
    redis_process: RedisProcess, conf: dict[str, Any]
) -> None:
    app = app_on(redis_process, **conf)
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([1, 2], {}),
        ([], {"näh": 'q"uote'}),
        (["\u2028", None], {"deep": [{"a": 1.5}]}),
    ]
    given = {"name": "many.echo", "shared": False}

    @app.task(**given)  # type: ignore[call-overload,untyped-decorator] # its stubs know no mapping
    def echo(*args: Any, **kwargs: Any) -> Any:
        return [args, kwargs] if args else None

    packed = [str(uuid4()) for _ in calls]
    deliver(app, [[run_id, *call] for run_id, call in zip(packed, calls, strict=True)], name="many.echo")
    alone = [str(uuid4()) for _ in calls]
    for run_id, call in zip(alone, calls, strict=True):
        deliver(app, [[run_id, *call]], name="many.echo")

    for one, other in zip(alone, packed, strict=True):
        first, second = meta_of(app, one), meta_of(app, other)
        assert list(first) == list(second)
        assert {key for key in first if first[key] != second[key]} == {"task_id", "date_done"}
        assert abs(instant(second) - instant(first)) < timedelta(seconds=WAIT)


def test_each_result_from_a_pack_has_its_own_date(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    given = {"name": "many.slow", "shared": False}

    @app.task(**given)  # type: ignore[call-overload,untyped-decorator] # its stubs know no mapping
    def take_long() -> None:
        began = time.monotonic()
        while time.monotonic() < began + 0.01:
            pass

    ids = [str(uuid4()) for _ in range(4)]
    deliver(app, [[run_id, [], {}] for run_id in ids], name="many.slow")

    dates = [instant(meta_of(app, run_id)) for run_id in ids]
    apart = [later - earlier for earlier, later in pairwise(dates)]
    assert min(apart) > timedelta(milliseconds=5)


def instant(meta: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(meta["date_done"])


def test_a_result_that_is_not_json_fails_its_call_alone(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    values: list[Any] = [1, object(), 3]
    given = {"name": "many.next", "shared": False}

    @app.task(**given)  # type: ignore[call-overload,untyped-decorator] # its stubs know no mapping
    def take_next() -> Any:
        return values.pop(0)

    ids = [str(uuid4()) for _ in range(3)]
    deliver(app, [[run_id, [], {}] for run_id in ids], name="many.next")

    assert [meta_of(app, run_id)["status"] for run_id in ids] == ["SUCCESS", "FAILURE", "SUCCESS"]


def test_a_result_from_a_pack_is_stored_as_one_of_its_own(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    alone, packed = str(uuid4()), str(uuid4())
    info = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    request = {
        "id": alone,
        "root_id": alone,
        "task": made.name,
        "delivery_info": info,
        "hostname": "w1",
        "retries": 0,
    }
    traced(made, alone, [1, 2], {"a": 3}, {**request, "args": [1, 2], "kwargs": {"a": 3}}, app=app)

    deliver(app, [[packed, [1, 2], {"a": 3}]])

    one, other = meta_of(app, alone), meta_of(app, packed)
    differing = {key for key in one if one[key] != other[key]}
    assert one.keys() == other.keys()
    assert differing == {"task_id", "date_done"}
    assert client_of(app).ttl(f"celery-task-meta-{packed}") > 86_000


def test_hooks_and_signals_are_those_of_each_call(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    made = celery_task(app)
    heard: list[tuple[str, str]] = []

    def prerun(task_id: str, sender: Task[..., Any], **_: object) -> None:
        heard.append((sender.name, task_id))

    signals.task_prerun.connect(prerun)
    made.__trace__ = None  # built anew, with the listener
    try:
        deliver(app, [["a", [], {}], ["b", [], {}]])
    finally:
        signals.task_prerun.disconnect(prerun)

    assert heard[-2:] == [("many.plain", "a"), ("many.plain", "b")]


def test_what_a_lost_worker_finished_is_not_done_twice(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    celery_task(app)
    backend: Any = app.backend
    backend.store_result("a", "from before", "SUCCESS")

    deliver(app, [["a", [], {}], ["b", [1], {}]], redelivered=True)

    assert meta_of(app, "a")["result"] == "from before"
    assert meta_of(app, "b")["result"] == 1


def test_a_task_that_the_worker_does_not_know_fails_each_call(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)

    deliver(app, [["a", [], {}], ["b", [], {}]], name="nobody.knows")

    for run_id in ("a", "b"):
        meta = meta_of(app, run_id)
        assert meta["status"] == "FAILURE"
        assert meta["result"]["exc_type"] == "NotRegistered"


def test_a_success_is_never_written_over(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    with ResultBuffer(backend, "pack"):
        backend.mark_as_failure("a", ValueError("late"))
        with app.connection_for_write():
            client_of(app).set("celery-task-meta-a", json.dumps({"status": "SUCCESS", "result": 1}))

    assert meta_of(app, "a")["result"] == 1
