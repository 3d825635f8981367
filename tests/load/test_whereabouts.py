"""Where runs are, looked at on a real broker: in each of the places there are."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import redis

from taskservice import Settings
from taskservice.backends.app import build_bare_app
from taskservice.load.whereabouts import Backlog, find_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """An app on a database that is empty."""
    url = f"{redis_url[:-1]}3"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    made = build_bare_app(Settings(redis_url=url, queues=("slow",)))
    yield made
    made.close()


def client_of(app: Celery) -> redis.Redis:
    return redis.Redis.from_url(app.conf.broker_url)


def send(app: Celery, run_id: str, **options: Any) -> None:
    app.send_task("shop.pack", task_id=run_id, ignore_result=True, **options)


def test_each_run_is_found_where_it_is(app: Celery) -> None:
    for number in range(1200):
        send(app, f"waiting-{number}")
    send(app, "of-another-queue", queue="slow")
    send(app, "urgent", priority=9)
    with client_of(app) as client:
        message = json.loads(client.rpop("celery") or b"")
        client.hset("unacked", "tag", json.dumps([message, "", "celery"]))
    app.backend.store_result("ended", None, "SUCCESS")
    app.backend.store_result("broken", ValueError("no"), "FAILURE")
    wanted = [
        "waiting-0",
        "waiting-1",
        "waiting-1199",
        "of-another-queue",
        "urgent",
        "ended",
        "broken",
        "gone",
    ]

    found = find_runs(app, wanted, ["slow"])

    assert found == {
        "waiting-0": "taken",
        "waiting-1": "queued",
        "waiting-1199": "queued",
        "of-another-queue": "queued",
        "urgent": "queued",
        "ended": "done",
        "broken": "failed",
        "gone": "lost",
    }


def test_a_run_that_moves_on_meanwhile_is_not_lost(app: Celery) -> None:
    run_ids = [f"run-{number}" for number in range(3000)]
    for run_id in run_ids:
        send(app, run_id)
    stopped = threading.Event()

    def work() -> None:
        with client_of(app) as client:
            while not stopped.is_set() and (message := client.rpop("celery")):
                app.backend.store_result(json.loads(message)["headers"]["id"], None, "SUCCESS")

    worker = threading.Thread(target=work)
    worker.start()
    found = Counter(find_runs(app, run_ids).values())
    stopped.set()
    worker.join()

    assert found["lost"] == 0
    assert found["queued"] + found["done"] == 3000


def test_the_backlog_is_what_waits_and_what_is_not_acknowledged(app: Celery) -> None:
    for number in range(3):
        send(app, f"run-{number}")
    send(app, "slow-one", queue="slow")
    with client_of(app) as client:
        client.hset("unacked", "tag", "[]")

    assert Backlog(app, ["slow"]).read() == (4, 1)


def test_a_broker_that_is_gone_tells_nothing_and_loses_nobody() -> None:
    app = build_bare_app(Settings(redis_url="redis://127.0.0.1:1/0"))

    assert find_runs(app, ["run"]) == {"run": "unknown"}
    assert Backlog(app).read() == (None, None)
