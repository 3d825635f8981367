"""Clients that look in Redis for queues of a simulated broker find them, as kombu would keep them there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "redis://nowhere.invalid"
URGENT = "later\x06\x166"

app = Celery("lists", broker=f"{SERVER}/1", backend=f"{SERVER}/0", set_as_current=False)
prefixed = Celery("prefixed", broker=f"{SERVER}/2", backend=f"{SERVER}/0", set_as_current=False)
prefixed.conf.broker_transport_options = {"global_keyprefix": "shop:", "sep": ":"}


@app.task
def known() -> None:
    """Be known to the workers."""


@pytest.fixture(autouse=True)
def driver() -> Iterator[CelerySimDriver]:
    found = CelerySimDriver(options=SimulatorOptions())
    found.begin(app, {})
    yield found
    found.reset()


@pytest.fixture
def client() -> Any:
    """A client of the application's own."""
    return redis.Redis(host="nowhere.invalid", db=1)


def send(*names: str, **options: Any) -> None:
    for name in names:
        app.send_task(name, queue="later", **options)


def test_a_queue_that_nobody_consumes_is_a_list_for_each_priority(client: Any) -> None:
    send("first", "second")
    send("urgent", priority=6)

    assert (client.llen("later"), client.llen(URGENT), client.llen("other")) == (2, 1, 0)
    messages = [json.loads(text) for text in client.lrange("later", 0, -1)]
    assert [message["headers"]["task"] for message in messages] == ["second", "first"]
    assert json.loads(client.lindex("later", -1)) == messages[1]
    assert client.lrange("later", 1, 1) == client.lrange("later", -1, 5)
    assert client.lindex("later", 2) is None


def test_one_that_is_dropped_is_empty(client: Any) -> None:
    send("first", "second")
    send("urgent", priority=6)
    client.rpush("own", 1, 2)

    assert client.delete("later", "nothing", "own") == 2
    assert (client.llen("later"), client.llen(URGENT), client.llen("own")) == (0, 1, 0)
    with app.connection() as connection:
        channel: Any = connection.default_channel
        assert channel.queue_declare("later", passive=True).message_count == 1


def test_pipelines_and_transactions_see_it_too(client: Any) -> None:
    send("first")

    for transaction in (True, False):
        pipeline = client.pipeline(transaction=transaction)
        assert pipeline.llen("later").lrange("later", 5, 9).execute() == [1, []]


def test_it_is_where_the_broker_is(client: Any) -> None:
    send("first")
    elsewhere = [redis.Redis(host="nowhere.invalid", db=0), redis.Redis(host="localhost", db=1)]

    assert [each.llen("later") for each in elsewhere] == [0, 0]
    client.rpush("later", "own")
    assert client.lrange("later", 0, -1) == [b"own"]


def test_names_are_those_of_the_transport_options() -> None:
    prefixed.send_task("first", queue="later")
    prefixed.send_task("urgent", queue="later", priority=9)
    client = redis.Redis(host="nowhere.invalid", db=2)

    assert [client.llen(name) for name in ("shop:later", "shop:later:9", "later")] == [1, 1, 0]


def test_what_a_worker_has_taken_is_in_no_list(client: Any, driver: CelerySimDriver) -> None:
    known.delay()
    driver.world.simulation.run_until_idle()

    assert client.llen("celery") == 0


def test_a_wrong_index_is_an_error(client: Any) -> None:
    send("first")

    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.execute_command("LRANGE", "later", "zero", "1")
