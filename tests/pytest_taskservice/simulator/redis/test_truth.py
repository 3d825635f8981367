"""The quick commands, fakeredis's and a real server's, side by side: one script of commands, one history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_taskservice.redis import RedisRequest, RedisServer, acquire
from pytest_taskservice.simulator.core.simulation import Simulation

Open = Callable[..., AbstractContextManager[Simulation]]

KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.sampled_from(
    [b"", b"0", b"7", b"-3", b"+1", b"007", b" 1", b"9223372036854775807", b"text", b"\x00\xff"]
)
TIMES = st.sampled_from([b"100", b"1000", b"0", b"-1", b"x", b""])
SCORES = st.sampled_from([b"0", b"3", b"12", b"-1", b"1.5", b"07", b"inf", b"nan", b"x", b"NX", b""])
OPTIONS = st.sampled_from(
    [
        (),
        (b"EX", b"100"),
        (b"px", b"90000"),
        (b"NX",),
        (b"NX", b"EX", b"70"),
        (b"XX", b"EX", b"50"),
        (b"GET",),
        (b"EX",),
        (b"KEEPTTL",),
    ]
)

PLAIN = st.one_of(
    st.tuples(st.just(b"GET"), KEYS),
    st.tuples(st.just(b"get"), KEYS),
    st.tuples(st.just(b"GET")),
    st.builds(lambda key, value, options: (b"SET", key, value, *options), KEYS, VALUES, OPTIONS),
    st.tuples(st.just(b"SETEX"), KEYS, TIMES | st.just(b"99999999999999999"), VALUES),
    st.tuples(st.just(b"MGET"), KEYS, KEYS),
    st.tuples(st.just(b"MGET")),
    st.tuples(st.sampled_from([b"DEL", b"UNLINK", b"EXISTS"]), KEYS, KEYS),
    st.tuples(st.sampled_from([b"INCR", b"TTL", b"TYPE", b"LLEN", b"LPOP", b"STRLEN", b"PERSIST"]), KEYS),
    st.tuples(st.just(b"INCRBY"), KEYS, VALUES),
    st.tuples(st.just(b"EXPIRE"), KEYS, TIMES),
    st.tuples(st.sampled_from([b"LPUSH", b"RPUSH", b"APPEND", b"SADD"]), KEYS, VALUES),
    st.tuples(st.just(b"HSET"), KEYS, st.just(b"field"), VALUES),
    st.tuples(st.just(b"HGET"), KEYS, st.just(b"field")),
    st.tuples(st.just(b"PUBLISH"), KEYS, VALUES),
    st.tuples(st.just(b"NONSENSE"), KEYS),
)
MEMBERS = st.sampled_from([b"m", b"n", b""])
PLACES = st.sampled_from([b"a", b"b"])
COLLECTIONS = st.one_of(
    st.tuples(st.sampled_from([b"SADD", b"SISMEMBER", b"SREM"]), PLACES, MEMBERS),
    st.tuples(st.just(b"SADD"), PLACES, MEMBERS, MEMBERS),
    st.tuples(st.just(b"ZADD"), PLACES, SCORES, MEMBERS),
    st.tuples(st.just(b"ZADD"), st.just(b"a"), SCORES, MEMBERS),
    st.tuples(st.just(b"ZRANGE"), st.just(b"a"), st.just(b"0"), st.just(b"-1")),
    st.tuples(st.just(b"ZREM"), PLACES, MEMBERS),
    st.tuples(st.just(b"ZSCORE"), PLACES, MEMBERS),
    st.tuples(st.just(b"ZCOUNT"), PLACES, st.sampled_from([b"-inf", b"1"]), st.sampled_from([b"+inf", b"7"])),
    st.tuples(
        st.just(b"ZRANGE"), PLACES, st.sampled_from([b"0", b"1"]), st.sampled_from([b"-1", b"1", b"x"])
    ),
    st.tuples(st.sampled_from([b"SCARD", b"ZCARD", b"ZADD", b"ZRANGE", b"SADD", b"DEL", b"TTL"]), PLACES),
    st.tuples(st.just(b"EXPIRE"), PLACES, TIMES),
    st.tuples(st.just(b"SET"), PLACES, MEMBERS, st.just(b"nx"), st.just(b"EX"), TIMES),
)
SCRIPTS = st.sampled_from([PLAIN, COLLECTIONS]).flatmap(
    lambda commands: st.lists(st.one_of(commands, st.lists(commands, max_size=4)), max_size=16)
)


@pytest.fixture(scope="module")
def real() -> Iterator[RedisServer]:
    """A real server, ours alone."""
    server = acquire(RedisRequest(choice="server"))
    yield server
    server.close()


def history(connection: Any, script: list[Any]) -> list[Any]:
    """Run each command, or each list of commands in one transaction."""
    said = []
    for step in [(b"FLUSHALL",), *script]:
        commands = [step] if isinstance(step, tuple) else [(b"MULTI",), *step, (b"EXEC",)]
        connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            try:
                said.append(seen(connection.read_response()))
            except redis.ResponseError as error:
                said.append(seen(error))
    return said


def seen(reply: Any) -> Any:
    if isinstance(reply, list):
        return [seen(item) for item in reply]
    return repr(reply) if isinstance(reply, Exception) else reply


def without_wording(reply: Any) -> Any:
    """fakeredis words some errors as other versions of Redis do."""
    if isinstance(reply, list):
        return [without_wording(item) for item in reply]
    return reply.partition("(")[0] if isinstance(reply, str) else reply


@settings(
    max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)
@given(script=SCRIPTS, protocol=st.sampled_from([2, 3]))
def test_quick_and_slow_and_real_servers_answer_alike(
    open_simulation: Open, real: RedisServer, script: list[Any], protocol: int
) -> None:
    pool = redis.ConnectionPool.from_url(real.url, protocol=protocol)
    there = pool.make_connection()
    truth = history(there, script)
    pool.disconnect()

    with open_simulation():
        connect: Any = redis.Connection
        quick, slow = connect(protocol=protocol), connect(port=2, protocol=protocol)
        slow.connect()
        slow._sock._server.slow = True
        answers = history(quick, script), history(slow, script)

    assert answers[0] == answers[1]
    assert without_wording(answers[0]) == without_wording(truth)
