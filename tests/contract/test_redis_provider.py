"""What every Redis provider gives: one suite, run over all five."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.redis import RedisRequest, RedisServer, acquire
from pytest_taskservice.redis.namespace import clear_keys, flush
from tests.contract.redis_providers import IMAGE, need
from tests.waiting import PROMPT, eventually

PROVIDERS = ("url", "server", "embedded", "container", "fake")


def blocked_clients(client: redis.Redis) -> int:
    return sum("b" in entry["flags"] for entry in client.client_list())


def has_blocked(client: redis.Redis, number: int) -> bool:
    return blocked_clients(client) == number


@pytest.fixture
def given_url() -> Iterator[str]:
    """The URL of a server somebody else started."""
    server = acquire(RedisRequest(choice="embedded"))
    yield server.url
    server.close()


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    """Each provider in turn."""
    return need(str(request.param))


@pytest.fixture
def server(provider: str, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server of the provider."""
    choice = request.getfixturevalue("given_url") if provider == "url" else provider
    server = acquire(RedisRequest(choice=choice, image=IMAGE))
    yield server
    server.close()


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def client(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A client in each version of the protocol."""
    client = redis.Redis.from_url(server.url, protocol=request.param, decode_responses=True, socket_timeout=5)
    yield client
    client.close()


@pytest.fixture
def soon(server: RedisServer) -> Iterator[Callable[[Callable[[redis.Redis], object]], None]]:
    """Lets another client do something as soon as the first one is blocked."""
    other = redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=5)
    threads: list[threading.Thread] = []

    def act(action: Callable[[redis.Redis], object]) -> None:
        eventually(lambda: blocked_clients(other) > 0)
        action(other)

    def start(action: Callable[[redis.Redis], object]) -> None:
        thread = threading.Thread(target=act, args=(action,))
        thread.start()
        threads.append(thread)

    yield start
    for thread in threads:
        thread.join()
    other.close()


def test_it_answers_ping(client: redis.Redis) -> None:
    assert client.ping() is True


def test_it_answers_a_ping_that_a_person_types(server: RedisServer) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as typed:
        typed.sendall(b"PING\r\n")

        assert typed.recv(64) == b"+PONG\r\n"


def test_it_says_its_name_and_version(server: RedisServer, provider: str) -> None:
    expected = {
        "url": r"Valkey \d+\.\d+\.\d+",
        "server": r"(Redis|Valkey) \d+\.\d+\.\d+",
        "embedded": r"Valkey \d+\.\d+\.\d+",
        "container": r"Redis \d+\.\d+\.\d+",
        "fake": r"fakeredis \d+\.\d+\.\d+ \(not a real server\)",
    }

    assert server.provider == provider
    assert re.fullmatch(expected[provider], server.version)


def test_it_is_owned_unless_it_was_given(server: RedisServer, provider: str) -> None:
    assert server.owned is (provider != "url")


def test_it_listens_on_the_loopback_only(server: RedisServer) -> None:
    port = urlsplit(server.url).port
    listening = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]

    addresses = {
        fields[1].partition(":")[0]
        for fields in map(str.split, listening)
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A"
    }

    assert addresses == {"0100007F"}


def test_it_survives_a_hundred_pipelined_commands(client: redis.Redis) -> None:
    pipeline = client.pipeline(transaction=False)
    for _ in range(100):
        pipeline.incr("counter")

    assert pipeline.execute() == list(range(1, 101))


def test_it_runs_a_transaction(client: redis.Redis) -> None:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.set("a", 1)
        pipeline.incr("a")
        pipeline.get("a")

        assert pipeline.execute() == [True, 2, "2"]


def test_a_changed_key_discards_a_transaction(client: redis.Redis) -> None:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.watch("a")  # type: ignore[no-untyped-call]
        client.set("a", "changed")
        pipeline.multi()
        pipeline.set("a", 1)

        with pytest.raises(redis.WatchError):
            pipeline.execute()


def test_it_keeps_strings(client: redis.Redis) -> None:
    client.set("key", "line\r\nline")
    client.append("key", "ü")

    assert client.get("key") == "line\r\nlineü"


def test_it_keeps_a_value_larger_than_any_buffer(client: redis.Redis) -> None:
    value = "0123456789abcdef" * 200_000

    client.set("key", value)

    assert client.get("key") == value


def test_it_keeps_hashes(client: redis.Redis) -> None:
    client.hset("hash", mapping={"a": "1", "b": "2"})
    client.hincrby("hash", "a", 4)

    assert client.hgetall("hash") == {"a": "5", "b": "2"}


def test_it_keeps_lists(client: redis.Redis) -> None:
    client.rpush("list", "a", "b", "c")
    client.lpush("list", "z")

    assert client.lrange("list", 0, -1) == ["z", "a", "b", "c"]


def test_it_keeps_sorted_sets(client: redis.Redis) -> None:
    client.zadd("set", {"late": 2.5, "early": 1})

    assert client.zrangebyscore("set", "-inf", 2) == ["early"]
    assert client.zscore("set", "late") == 2.5


def test_it_reads_what_a_stream_has(client: redis.Redis) -> None:
    entry = client.xadd("stream", {"kind": "started"})

    assert client.xrange("stream") == [(entry, {"kind": "started"})]


def test_a_blocked_stream_reader_gets_the_next_entry(
    client: redis.Redis, soon: Callable[[Callable[[redis.Redis], object]], None]
) -> None:
    soon(lambda other: other.xadd("stream", {"kind": "started"}, id="1-1"))

    reply = client.xread({"stream": "$"}, block=4000)

    streams = dict(reply.items() if isinstance(reply, dict) else reply)
    assert "('1-1', {'kind': 'started'})" in str(streams["stream"])


def test_every_blocked_stream_reader_gets_the_next_entry(client: redis.Redis, server: RedisServer) -> None:
    address = urlsplit(server.url)
    place = (address.hostname or "", address.port or 0)
    readers = [socket.create_connection(place, timeout=5) for _ in range(3)]
    for reader in readers:
        reader.sendall(b"XREAD BLOCK 0 STREAMS stream $\r\n")
    assert eventually(partial(has_blocked, client, 3))

    client.xadd("stream", {"kind": "started"})

    assert [b"started" in reader.recv(256) for reader in readers] == [True, True, True]
    for reader in readers:
        reader.close()


def test_it_publishes_to_a_channel_and_to_a_pattern(client: redis.Redis) -> None:
    with client.pubsub() as subscriber:  # type: ignore[no-untyped-call]
        subscriber.subscribe("news")
        subscriber.psubscribe("n*")
        heard = [subscriber.get_message(timeout=2) for _ in range(2)]
        client.publish("news", "hello")
        heard += [subscriber.get_message(timeout=2) for _ in range(2)]

    assert [message and (message["type"], message["data"]) for message in heard] == [
        ("subscribe", 1),
        ("psubscribe", 2),
        ("message", "hello"),
        ("pmessage", "hello"),
    ]


def test_it_runs_lua(client: redis.Redis) -> None:
    script = "redis.call('SET', KEYS[1], ARGV[1]); return {redis.call('GET', KEYS[1]), 7}"

    assert client.eval(script, 1, "key", "value") == ["value", 7]


def test_an_error_in_lua_is_an_error_reply(client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="told so"):
        client.eval("return redis.error_reply('MINE told so')", 0)


def test_a_loaded_script_is_known_by_its_hash(client: redis.Redis) -> None:
    digest = client.script_load("return ARGV[1]")

    assert client.evalsha(digest, 0, "x") == "x"
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 0)


def test_a_blocked_brpop_gets_what_is_pushed(
    client: redis.Redis, soon: Callable[[Callable[[redis.Redis], object]], None]
) -> None:
    soon(lambda other: other.lpush("second", "message"))

    assert client.brpop(["first", "second"], timeout=4) == _pair(client, "second", "message")


def test_a_blocked_blmove_moves_what_is_pushed(
    client: redis.Redis, soon: Callable[[Callable[[redis.Redis], object]], None]
) -> None:
    soon(lambda other: other.rpush("from", "a", "b"))

    assert client.blmove("from", "to", 4, "LEFT", "RIGHT") == "a"
    assert (client.lrange("from", 0, -1), client.lrange("to", 0, -1)) == (["b"], ["a"])


def test_blmove_turns_a_list_around(client: redis.Redis) -> None:
    client.rpush("ring", "a", "b", "c")

    client.blmove("ring", "ring", 4, "RIGHT", "LEFT")

    assert client.lrange("ring", 0, -1) == ["c", "a", "b"]


def test_a_blocked_request_gives_up_at_its_timeout(client: redis.Redis) -> None:
    started = time.monotonic()

    assert client.brpop(["nothing"], timeout=0.2) is None
    assert 0.15 < time.monotonic() - started < PROMPT


def test_a_closed_client_takes_no_message(client: redis.Redis, server: RedisServer) -> None:
    address = urlsplit(server.url)
    gone = socket.create_connection((address.hostname or "", address.port or 0), timeout=5)
    gone.sendall(b"CLIENT SETNAME gone\r\nBRPOP queue 0\r\n")
    gone.recv(64)
    gone.close()
    assert eventually(lambda: "gone" not in [entry.get("name") for entry in client.client_list()])

    client.lpush("queue", "message")

    assert client.lrange("queue", 0, -1) == ["message"]


def test_blocked_clients_are_served_in_the_order_they_came(client: redis.Redis, server: RedisServer) -> None:
    address = urlsplit(server.url)
    place = (address.hostname or "", address.port or 0)
    waiting: list[socket.socket] = []
    for number in range(1, 9):
        waiting.append(socket.create_connection(place, timeout=5))
        waiting[-1].sendall(b"BRPOP queue 0\r\n")
        assert eventually(partial(has_blocked, client, number))

    client.rpush("queue", *"abcdefgh")

    # One push came for all of them, and each RPOP takes from the end.
    taken = [connection.recv(64).splitlines()[-1].decode() for connection in waiting]
    assert taken == ["h", "g", "f", "e", "d", "c", "b", "a"]
    for connection in waiting:
        connection.close()


def test_an_error_reply_leaves_the_connection_usable(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, single_connection_client=True) as client:
        number = client.client_id()
        client.set("key", "text")

        with pytest.raises(redis.ResponseError, match="wrong kind"):
            client.lpush("key", "x")
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("NOSUCH")

        assert client.client_id() == number


def test_an_error_inside_a_pipeline_is_only_its_own(client: redis.Redis) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.set("key", "text")
    pipeline.lpush("key", "x")
    pipeline.get("key")

    replies = pipeline.execute(raise_on_error=False)

    assert replies[0] is True
    assert isinstance(replies[1], redis.ResponseError)
    assert replies[2] == "text"


def test_a_key_expires(client: redis.Redis) -> None:
    client.set("key", "value", px=30)

    assert 0 < int(client.pttl("key")) <= 30
    assert eventually(lambda: not client.exists("key"))


def test_it_answers_info_and_object(client: redis.Redis) -> None:
    client.set("key", "12")

    assert "redis_version" in client.info()
    assert client.object("encoding", "key") == "int"


def test_a_prefix_is_cleared_and_nothing_else(server: RedisServer, client: redis.Redis) -> None:
    client.mset({f"mine*[x]:{number}": number for number in range(1200)})
    client.mset({"mineXx:1": "stays", "other": "stays"})

    assert clear_keys(server.url, "mine*[x]:") == 1200
    assert sorted(client.keys()) == ["mineXx:1", "other"]


def test_an_empty_prefix_is_refused(server: RedisServer) -> None:
    with pytest.raises(ValueError, match="need a key prefix"):
        clear_keys(server.url, "")


def test_only_an_owned_server_is_flushed(server: RedisServer, client: redis.Redis) -> None:
    client.set("key", "value")

    if server.owned:
        flush(server)
    else:
        with pytest.raises(RedisProviderError, match="refusing to flush"):
            flush(server)

    assert client.exists("key") == (0 if server.owned else 1)


def test_closing_a_given_server_leaves_it_running(given_url: str) -> None:
    acquire(RedisRequest(choice=given_url)).close()

    assert redis.Redis.from_url(given_url).ping() is True


def _pair(client: redis.Redis, key: str, value: str) -> object:
    resp3 = client.connection_pool.connection_kwargs["protocol"] == 3
    return [key, value] if resp3 else (key, value)
