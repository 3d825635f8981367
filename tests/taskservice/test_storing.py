"""Storing results in one round trip: what is stored and published is what Celery stores and publishes."""

from __future__ import annotations

import json
import multiprocessing
import re
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from redis.connection import Connection

from taskservice import ConfigurationError, Settings, create_app
from taskservice.backends.app import build_bare_app
from taskservice.backends.scripting import ScriptLine
from taskservice.backends.storing import OneTripRedisBackend
from taskservice.worker.install import install_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.taskservice.conftest import RedisProcess

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+\+00:00")
REQUEST = {"id": "a", "task": "some.task", "args": [1], "kwargs": {"n": 2}, "retries": 1, "hostname": "w1"}


def app_on(redis: RedisProcess, **conf: Any) -> Celery:
    app = create_app(Settings(redis_url=redis.url))
    app.conf.update(conf)
    return app


def kept(backend: Any, run_id: str) -> tuple[str, int]:
    """What is stored of a run, and for about how long."""
    key = backend.get_key_for_task(run_id)
    return INSTANT.sub("<instant>", backend.client.get(key).decode()), round(backend.client.ttl(key), -1)


def stored_by(backend: Any, state: str, value: object) -> tuple[str, int]:
    backend.client.flushall()
    backend.store_result("a", value, state, request=Context(REQUEST))
    return kept(backend, "a")


@pytest.mark.parametrize("end", ["SUCCESS", "FAILURE", "REVOKED"])
def test_an_attempt_that_says_late_that_it_is_retried_is_not_written_over_the_end(
    redis_process: RedisProcess, end: str
) -> None:
    backend: Any = app_on(redis_process).backend
    backend.client.flushall()

    backend.store_result("a", 1 if end == "SUCCESS" else ValueError("no"), end, request=Context(REQUEST))
    backend.store_result("a", ValueError("again"), "RETRY", request=Context(REQUEST))

    assert backend.get_state("a") == end


@pytest.mark.parametrize(
    ("state", "value"),
    [
        ("STARTED", {"pid": 7, "hostname": "w1"}),
        ("SUCCESS", {"zwölf": [1, None]}),
        ("FAILURE", ValueError("no")),
        ("RETRY", ValueError("again")),
        ("PROGRESS", {"done": 3}),
    ],
)
@pytest.mark.parametrize("conf", [{}, {"result_expires": None}, {"result_failure_expires": 60}])
def test_it_stores_what_celery_stores(
    redis_process: RedisProcess, conf: dict[str, Any], state: str, value: object
) -> None:
    app = app_on(redis_process, **conf)
    backend: Any = app.backend

    assert type(backend) is OneTripRedisBackend
    assert stored_by(backend, state, value) == stored_by(
        RedisBackend(app=app, url=redis_process.url), state, value
    )


def test_what_is_compressed_goes_celerys_way(redis_process: RedisProcess) -> None:
    app = app_on(redis_process, result_compression="gzip")
    backend: Any = app.backend
    backend.store_result("a", 1, "SUCCESS")

    assert backend.get_task_meta("a")["result"] == 1


@pytest.mark.parametrize("before", ["SUCCESS", "STARTED"])
def test_a_run_that_succeeded_keeps_its_result(redis_process: RedisProcess, before: str) -> None:
    backend: Any = app_on(redis_process).backend
    backend.store_result("a", "first", before)

    backend.store_result("a", "second", "SUCCESS")

    expected = "first" if before == "SUCCESS" else "second"
    assert json.loads(backend.client.get("celery-task-meta-a"))["result"] == expected


def test_it_knows_a_success_that_somebody_else_wrote(redis_process: RedisProcess) -> None:
    backend: Any = app_on(redis_process).backend
    backend.client.set("celery-task-meta-a", '{"result": 1, "status": "SUCCESS"}')

    backend.store_result("a", None, "STARTED")

    assert json.loads(backend.client.get("celery-task-meta-a"))["result"] == 1


def test_who_follows_the_run_is_told_once(redis_process: RedisProcess) -> None:
    backend: Any = app_on(redis_process).backend
    with backend.client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("celery-task-meta-a")
        channel.get_message(timeout=15)
        backend.store_result("a", 1, "SUCCESS")
        backend.store_result("a", 2, "SUCCESS")
        backend.client.publish("celery-task-meta-a", "last")
        heard: list[bytes] = []
        while not heard or heard[-1] != b"last":
            message = channel.get_message(timeout=15)
            assert message is not None
            heard.append(message["data"])

    assert heard == [backend.client.get("celery-task-meta-a"), b"last"]


@pytest.mark.parametrize("states", [("SUCCESS",), ("STARTED", "SUCCESS")])
def test_a_redis_without_scripts_is_written_to_as_celery_does(
    redis_process: RedisProcess, states: tuple[str, ...]
) -> None:
    backend: Any = app_on(redis_process).backend
    backend.client.execute_command("ACL", "SETUSER", "default", "-@scripting")

    for state in states:
        backend.store_result("a", 1, state)

    assert backend.get_task_meta("a")["status"] == "SUCCESS"


def lose_connections(backend: Any) -> None:
    backend.client.client_kill_filter(_type="normal", skipme=True)


def forget_scripts(backend: Any) -> None:
    backend.client.script_flush()


@pytest.mark.parametrize("happens", [lose_connections, forget_scripts])
@pytest.mark.parametrize("between", [("STARTED",), ("STARTED", "STARTED"), ("SUCCESS",)])
def test_an_end_is_stored_whatever_happened_to_the_connection(
    redis_process: RedisProcess, happens: Callable[[Any], None], between: tuple[str, ...]
) -> None:
    backend: Any = app_on(redis_process).backend
    for number, state in enumerate(between):
        backend.store_result(f"before-{number}", None, state)

    happens(backend)
    backend.store_result("a", 1, "SUCCESS")

    assert backend.get_task_meta("a")["result"] == 1


def test_each_process_stores_on_a_connection_of_its_own(redis_process: RedisProcess) -> None:
    app = app_on(redis_process)
    backend: Any = app.backend
    backend.store_result("before", 0, "SUCCESS")
    backend.store_result("here", None, "STARTED")

    child = multiprocessing.get_context("fork").Process(
        target=backend.store_result, args=("child", 1, "SUCCESS")
    )
    child.start()
    child.join(15)
    backend.store_result("here", 2, "SUCCESS")

    assert child.exitcode == 0
    assert [backend.get_task_meta(run_id)["result"] for run_id in ("child", "here")] == [1, 2]


def test_coroutines_of_one_thread_take_no_answers_of_each_other(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = app_on(redis_process).backend
    backend.store_result("before", 0, "SUCCESS")
    read = Connection.read_response
    others = iter(["other"])

    def read_after_another(connection: Any, *args: Any, **options: Any) -> Any:
        # As where greenlets share a thread: while one waits for its answer, another one stores.
        for other in others:
            backend.store_result(other, 2, "SUCCESS")
        return read(connection, *args, **options)

    monkeypatch.setattr(Connection, "read_response", read_after_another)
    backend.store_result("one", 1, "SUCCESS")

    found = [backend.get_task_meta(run_id, cache=False)["result"] for run_id in ("one", "other")]
    assert found == [1, 2]


def test_threads_that_share_a_result_backend_store_as_celery_does(redis_process: RedisProcess) -> None:
    backend: Any = app_on(redis_process, result_backend_thread_safe=True).backend

    def run(number: int) -> None:
        backend.store_result(str(number), None, "STARTED")
        backend.store_result(str(number), number, "SUCCESS")

    with ThreadPoolExecutor(8) as pool:
        _, stuck = wait([pool.submit(run, number) for number in range(200)], timeout=15)

    assert not stuck
    assert [backend.get_task_meta(str(number), cache=False)["result"] for number in range(200)] == [
        *range(200)
    ]


def test_a_result_backend_of_ones_own_making_stays(redis_process: RedisProcess) -> None:
    settings = Settings(redis_url=redis_process.url)
    app = build_bare_app(settings)
    app.loader.override_backends = {"redis": "celery.backends.redis:RedisBackend"}
    install_worker(app, settings)

    assert type(app.backend) is RedisBackend


def test_a_seam_that_is_gone_is_told(redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_on(redis_process)
    monkeypatch.delattr("celery.backends.base.Backend._get_result_meta")

    with pytest.raises(ConfigurationError, match=r"RedisBackend\._get_result_meta is gone"):
        _ = app.backend


def test_a_seam_of_redis_py_that_is_gone_is_told(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = app_on(redis_process).backend
    monkeypatch.delattr("redis.connection.AbstractConnection.send_command")

    with pytest.raises(ConfigurationError, match=r"Connection\.send_command is gone"):
        ScriptLine(backend.client, "return 1")
