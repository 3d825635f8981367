"""Faults of a Redis that is the broker: results, and what an app's own clients do on it, suffer as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_taskservice.drivers.app_patch import AppPatch
from pytest_taskservice.simulator.celery.world import CeleryWorld
from tests.pytest_taskservice.simulator.faulty import AMQP, early, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, SECOND = "worker1@sim", "worker2@sim"
ONCE = Retry(NoBackoff(), 0)
# Since redis-py 8 that is no default any more.
PATIENT: dict[str, Any] = {"retry": ONCE, "socket_timeout": None}

plain = Celery("plain", broker="redis://localhost/0", backend="redis://localhost/1", set_as_current=False)
plain.conf.broker_connection_retry_on_startup = True
counter = redis.Redis(db=2, retry=ONCE)


@plain.task(name="plain.work")
def work(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@plain.task(name="plain.count")
def count(rest: float = 0) -> Any:
    time.sleep(rest)
    try:
        return counter.incr("runs")
    except redis.ConnectionError:
        return "refused"
    finally:
        time.sleep(rest)


@pytest.fixture
def world() -> Iterator[CeleryWorld]:
    with AppPatch(plain, {}).applied(), CeleryWorld(seed=0) as found:
        found.start_worker(plain, hostname=FIRST, concurrency=1)
        yield found


async def get_with_asyncio(key: str) -> Any:
    async with redis.asyncio.Redis(
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0), socket_timeout=None
    ) as client:
        return await client.get(key)


def get_sync(key: str) -> Any:
    with redis.Redis(**PATIENT) as client:
        return client.get(key)


def get_async(key: str) -> Any:
    return asyncio.run(get_with_asyncio(key))


both_clients = pytest.mark.parametrize("get", [get_sync, get_async])
Get = Callable[[str], Any]


# Outages.


@both_clients
def test_a_client_is_refused_during_an_outage(get: Get, world: CeleryWorld) -> None:
    outage = world.faults.inject("down")

    with pytest.raises(redis.ConnectionError, match=r"Error 111 connecting to localhost:6379"):
        get("key")
    outage.heal()

    assert get("key") is None


def test_an_open_connection_breaks_and_is_made_anew(world: CeleryWorld) -> None:
    with redis.Redis(retry=ONCE) as client:
        client.set("key", "kept")
        world.faults.inject("down", for_=5)

        with pytest.raises(redis.ConnectionError):
            client.get("key")
        world.simulation.advance(6)

        assert client.get("key") == b"kept"


def test_a_client_tries_again_as_often_as_it_would(world: CeleryWorld) -> None:
    world.faults.inject("down", for_=2)

    # redis-py's own default: three more times, over some seconds.
    with redis.Redis() as client:
        assert client.ping()

    assert world.simulation.elapsed > 2


def test_who_waits_for_a_message_hears_that_the_connection_is_gone(world: CeleryWorld) -> None:
    with redis.Redis(**PATIENT) as client:
        world.faults.inject("down", after=10, for_=1)

        with pytest.raises(redis.ConnectionError):
            client.blpop(["queue"], timeout=60)

    assert int(world.simulation.elapsed) == 10


def test_a_result_that_cannot_be_stored_fails_its_run_as_with_celery(world: CeleryWorld) -> None:
    run = work.delay(3)
    world.faults.inject("down", after=1, for_=5)

    with pytest.raises(redis.ConnectionError, match="Connection refused"):
        run.get()


def test_a_result_that_may_be_stored_later_is(world: CeleryWorld) -> None:
    with AppPatch(plain, {"result_backend_always_retry": True}).applied():
        run = work.delay(3)
        world.faults.inject("down", after=1, for_=5)

        # Who waits is cut off too, and connects once more.
        assert run.get() == "done"
        assert world.simulation.elapsed > 6


def test_a_result_of_before_an_outage_is_there_after_it(world: CeleryWorld) -> None:
    run = work.delay(1)
    world.simulation.advance(2)
    world.faults.inject("down", for_=5)
    world.simulation.advance(5)

    assert run.get() == "done"
    assert work.delay(1).get() == "done"


def test_an_app_whose_redis_is_away_cannot_send_for_twenty_seconds(world: CeleryWorld) -> None:
    assert work.delay(0).get() == "done"
    world.faults.inject("down")

    with pytest.raises(RuntimeError, match="Retry limit exceeded while trying to reconnect"):
        work.delay(0)


# Silence.


@both_clients
def test_what_a_silent_redis_is_asked_it_answers_later(get: Get, world: CeleryWorld) -> None:
    world.faults.inject("timeout", for_=10)

    assert get("key") is None
    assert int(world.simulation.elapsed) == 10


def test_a_client_gives_up_on_a_silent_redis_as_soon_as_it_would(world: CeleryWorld) -> None:
    world.faults.inject("pause", target="broker", for_=60)

    with redis.Redis(socket_timeout=3, retry=ONCE) as client, pytest.raises(redis.TimeoutError):
        client.incr("key")
    assert int(world.simulation.elapsed) == 3
    world.simulation.advance(60)

    # It was sent, but whoever sent it was gone when the server looked.
    with redis.Redis() as client:
        assert client.get("key") is None


def test_what_is_published_in_a_silence_is_heard_after_it(world: CeleryWorld) -> None:
    with redis.Redis() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=1) is None
        world.faults.inject("timeout", worker=FIRST)
        client.publish("news", "heard at once")
        assert pubsub.get_message(timeout=1)["data"] == b"heard at once"

        silence = world.faults.inject("timeout")
        world.simulation.after(5, silence.heal)
        client.publish("news", "heard later")

        assert pubsub.get_message(timeout=60)["data"] == b"heard later"
        assert int(world.simulation.elapsed) in (5, 6)


# Slow and narrow ways.


@both_clients
def test_each_answer_comes_later_on_a_slow_way(get: Get, world: CeleryWorld) -> None:
    world.faults.inject("latency", by=2)

    get("key")
    get("key")

    assert int(world.simulation.elapsed) == 4


def test_bytes_take_their_time(world: CeleryWorld) -> None:
    world.faults.inject("bandwidth", rate=1000)

    with redis.Redis() as client:
        client.set("key", "x" * 5000)
        assert int(world.simulation.elapsed) == 5
        client.get("key")
        assert int(world.simulation.elapsed) == 10


def test_what_is_published_arrives_later_and_in_order_on_a_slow_way(world: CeleryWorld) -> None:
    with redis.Redis() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=1) is None
        world.faults.inject("latency", by=2)
        client.publish("news", "first")
        client.publish("news", "second")

        heard = [pubsub.get_message(timeout=60) for _ in range(2)]

    assert [message["data"] for message in heard if message] == [b"first", b"second"]


# Whose way, and to what.


def test_one_worker_alone_may_be_without_a_way_to_its_results(world: CeleryWorld) -> None:
    world.start_worker(plain, hostname=SECOND, concurrency=1)
    counter.set("runs", 41)
    runs = [work.delay(2) for _ in range(2)]
    world.faults.inject("down", worker="worker1", after=1, for_=10)

    ends = sorted(run.get(propagate=False) == "done" for run in runs)

    assert ends == [False, True]
    # Nothing is in the test's way.
    assert counter.incr("runs") == 42


def test_a_body_meets_the_outage_of_its_worker_and_the_test_does_not(world: CeleryWorld) -> None:
    run = count.delay(5)
    world.faults.inject("down", worker=FIRST, after=4, for_=5)
    world.simulation.advance(6)

    assert counter.incr("runs") == 1
    assert run.get() == "refused"


def test_another_server_is_reached_all_the_time(world: CeleryWorld) -> None:
    world.faults.inject("down")

    with redis.Redis(host="cache.example", retry=ONCE) as other, redis.Redis(port=6380) as another:
        assert other.ping()
        assert another.ping()


def test_an_outage_of_rabbitmq_leaves_every_redis_alone() -> None:
    with opened(AMQP) as world:
        run = early.delay(3)
        world.faults.inject("down", after=1, for_=30)

        assert run.get() == 3
        assert get_sync("key") is None
        assert world.simulation.elapsed < 4


def test_a_reset_breaks_the_connections_of_a_worker(world: CeleryWorld) -> None:
    assert [count.delay().get() for _ in range(2)] == [1, 2]

    world.faults.inject("reset_peer", worker=FIRST)

    assert count.delay().get() == 3
