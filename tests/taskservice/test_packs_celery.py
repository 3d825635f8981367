"""Many calls in a message on Celery: where packs go, what becomes of them, and how results are stored."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.app.task import Task
from celery.app.trace import trace_task
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import NotRegistered

from taskservice import (
    CeleryBackend,
    ConfigurationError,
    PackedNotRegisteredError,
    RunCancelledError,
    TaskState,
)
from taskservice.backends.packed import packed_task, register_packed
from taskservice.backends.packed_results import ResultBuffer
from tests.taskservice.messages import WAIT, add, app_on, celery_task, client_of, lists

if TYPE_CHECKING:
    from tests.taskservice.conftest import RedisProcess


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_result_seam_that_is_gone_is_told(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    monkeypatch.delattr(BaseKeyValueStoreBackend, "_store_result")
    monkeypatch.delattr("celery.backends.base.Backend._store_result", raising=False)

    with pytest.raises(ConfigurationError, match=r"RedisBackend\._store_result is gone"):
        ResultBuffer(backend, "pack")


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
    redis_process: RedisProcess, options: dict[str, Any], name: str
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
