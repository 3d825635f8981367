"""What a workflow store does on a real Redis: its keys, its scripts, its connections."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from taskservice.backends.probing import connect_redis
from taskservice.backends.storage import Storage
from taskservice.errors import BackendUnavailableError
from taskservice.workflow.model import Deadlines, EntryKind
from taskservice.workflow.store.base import apply_signal
from taskservice.workflow.store.redis import RedisStore
from taskservice.workflow.transitions import Answer, Ask, Claim, Step, Stop
from tests.contract.stored_runs import NOW, QUESTION, Reader, ask, claim, entry, ids, load, start, wait_until

REAL = ("server", "embedded")


@pytest.fixture(params=REAL)
def client(request: pytest.FixtureRequest, redis_urls: Callable[[str], str]) -> Iterator[Redis]:
    """A client of a server that can be asked about itself."""
    with Redis.from_url(redis_urls(request.param)) as opened:
        yield opened


@pytest.fixture
def redis_store(client: Redis, prefix: str) -> Iterator[RedisStore]:
    """A store on that server."""
    opened = RedisStore(Storage(client, prefix))
    yield opened
    opened.close()


def test_data_that_nobody_sweeps_goes_by_itself(redis_store: RedisStore, client: Redis, prefix: str) -> None:
    run_id = start(redis_store, deadlines=Deadlines(data=100))
    token = claim(redis_store, run_id)
    keys = [f"{prefix}wf:{kind}:{run_id}" for kind in ("run", "journal", "events")]
    redis_store.emit(run_id, token, [((0, 0), "p", 1)], now=NOW)

    assert 100 + 15 < client.ttl(keys[0]) <= 15 + 100 + 60
    question = Ask(token=token, steps=1, question=QUESTION)
    apply_signal(redis_store, run_id, question, now=NOW, entry=entry(0, EntryKind.ASK, None))
    assert redis_store.count_keys(run_id) == 3
    for key in keys:
        assert 100 < client.ttl(key) <= 100 + 60
    apply_signal(redis_store, run_id, Stop(), now=NOW)
    for key in keys:
        assert 100 - 30 < client.ttl(key) <= 100


def test_each_key_of_a_run_ends_by_itself(redis_store: RedisStore, client: Redis, prefix: str) -> None:
    run_id = start(redis_store)
    apply_signal(redis_store, run_id, Claim(worker="w1"), now=NOW)
    redis_store.emit(run_id, 1, [((0, 0), "p", 1)], now=NOW)
    question = Ask(token=1, steps=1, question=QUESTION, timeout=100)
    apply_signal(redis_store, run_id, question, now=NOW, entry=entry(0, EntryKind.ASK, None))

    keys = [f"{prefix}wf:{kind}:{run_id}" for kind in ("run", "journal", "events")]

    assert sorted(client.scan_iter(f"{prefix}*")) == sorted(
        key.encode() for key in (*keys, f"{prefix}wf:deadlines")
    )
    kept = 100 + 86400 + 60
    for key in keys:
        assert kept - 30 < client.ttl(key) <= kept
    apply_signal(redis_store, run_id, Stop(), now=NOW)
    for key in keys:
        assert 86400 - 30 < client.ttl(key) <= 86400


def test_no_deadline_stays_of_a_run_that_vanished(
    redis_store: RedisStore, client: Redis, prefix: str
) -> None:
    gone, there = start(redis_store), start(redis_store)
    client.delete(f"{prefix}wf:run:{gone}")

    assert redis_store.due(NOW + 10) == [there]

    assert client.zrange(f"{prefix}wf:deadlines", 0, -1) == [there.encode()]


def test_a_waiting_run_takes_less_than_4_kb(redis_store: RedisStore, client: Redis, prefix: str) -> None:
    run_id = start(redis_store)
    token = claim(redis_store, run_id)
    redis_store.emit(run_id, token, [((0, 0), "progress", {"percent": 50})], now=NOW)
    step = Step(token=token, steps=1)
    apply_signal(redis_store, run_id, step, now=NOW, entry=entry(0, EntryKind.STEP, {"amount": 12.5}))
    asked = Ask(token=token, steps=2, question=QUESTION)
    apply_signal(redis_store, run_id, asked, now=NOW, entry=entry(1, EntryKind.ASK, None))

    sizes = [client.memory_usage(f"{prefix}wf:{kind}:{run_id}") for kind in ("run", "journal", "events")]

    assert sum(size or 0 for size in sizes) < 4096, sizes
    apply_signal(redis_store, run_id, Answer(question_id="q1"), now=NOW)
    assert ids(redis_store.events(run_id).events) == [1, 2, 3, 4, 5]


def test_scripts_are_sent_again_to_a_server_that_lost_them(redis_store: RedisStore, client: Redis) -> None:
    run_id = start(redis_store)
    client.script_flush()

    redis_store.emit(run_id, claim(redis_store, run_id), [((0, 0), "p", 1)], now=NOW)

    assert ids(redis_store.events(run_id).events) == [1, 2, 3]


@pytest.mark.parametrize("client", ["server"], indirect=True)
def test_a_thousand_watched_runs_share_one_connection_that_is_idle(
    redis_store: RedisStore, client: Redis
) -> None:
    others = len(subscribers(client))
    run_ids = [start(redis_store) for _ in range(1000)]
    readers = [Reader(redis_store, run_id) for run_id in run_ids]
    for reader in readers:
        assert list(reader.wait_for_call()) == []

    assert len(subscribers(client)) == others + 1

    before = commands(client)
    for reader, run_id in zip(readers, run_ids, strict=True):
        apply_signal(redis_store, run_id, Stop(), now=NOW)
        reader.follow(2)
    busy = commands(client) - before
    # Per run: one load, one write, and the twelve that its script calls. The readers ask nothing.
    assert busy < 1000 * 14 + 100, busy


@pytest.mark.parametrize("client", ["server"], indirect=True)
def test_nobody_asks_anything_while_nothing_happens(redis_store: RedisStore, client: Redis) -> None:
    reader = Reader(redis_store, start(redis_store))
    reader.wait_for_call()

    before = commands(client)
    threading.Event().wait(1.0)

    # The first question about commands counts itself.
    assert commands(client) - before <= 2


def test_after_a_broken_connection_everybody_is_told(redis_store: RedisStore, client: Redis) -> None:
    run_ids = [start(redis_store) for _ in range(3)]
    readers = [Reader(redis_store, run_id) for run_id in run_ids]
    for reader in readers:
        assert list(reader.wait_for_call()) == []

    client.client_kill_filter(_type="pubsub")
    for reader in readers:
        assert list(reader.wait_for_call()) == []
    for run_id in run_ids:
        apply_signal(redis_store, run_id, Stop(), now=NOW)

    for reader in readers:
        assert reader.follow(2) == [1, 2]


def test_closing_ends_thread_and_connection(redis_store: RedisStore, client: Redis) -> None:
    before = len(subscribers(client))
    Reader(redis_store, start(redis_store)).wait_for_call()
    assert len(subscribers(client)) == before + 1

    redis_store.close()

    assert not [each for each in threading.enumerate() if each.name == "taskservice-events"]
    wait_until(lambda: len(subscribers(client)) == before, "the connection stayed")


def test_a_client_that_decodes_is_as_good(client: Redis, prefix: str) -> None:
    url = client.connection_pool.connection_kwargs
    with Redis(host=url["host"], port=url["port"], decode_responses=True) as decoding:
        store = RedisStore(Storage(decoding, prefix))
        run_id = start(store)
        reader = Reader(store, run_id)
        ask(store, run_id)

        assert reader.follow(3) == [1, 2, 3]
        assert load(store, run_id).question == QUESTION
        assert store.due(NOW + 1e6) == [run_id]
        assert len(store.journal(run_id)) == 1
        store.close()


def test_a_server_that_is_not_there_is_told_by_name() -> None:
    store = RedisStore(Storage(connect_redis("redis://127.0.0.1:1/0", 1.0), "x:"))

    with pytest.raises(BackendUnavailableError, match="start or configure the redis back end") as caught:
        store.load("r1")

    assert pickle.loads(pickle.dumps(caught.value)).backend == "redis"
    store.watch("r1", lambda _: None)
    store.close()


def subscribers(client: Redis) -> list[Any]:
    return list(client.client_list(_type="pubsub"))


def commands(client: Redis) -> int:
    stats: dict[str, Any] = client.info("commandstats")
    return sum(int(found["calls"]) for found in stats.values())
