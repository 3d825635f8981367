"""redis-py's blocking clients in a simulation, from outside."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import fakeredis
import pytest
import redis
from redis.exceptions import LockNotOwnedError

from pytest_taskservice.errors import SimulationIdleError
from pytest_taskservice.redis import RedisRequest, RedisServer, acquire
from pytest_taskservice.simulator.core.simulation import Simulation

Open = Callable[..., AbstractContextManager[Simulation]]

made_before = redis.Redis(port=7777)


@pytest.fixture(scope="module")
def real() -> Iterator[RedisServer]:
    """A real server."""
    server = acquire(RedisRequest(choice="auto"))
    yield server
    server.close()


def client(**options: Any) -> Any:
    return redis.Redis(**options)


def test_a_client_made_before_reaches_the_simulated_server(simulation: Simulation) -> None:
    made_before.set("greeting", "hello")

    assert client(port=7777).get("greeting") == b"hello"


def test_every_simulation_has_new_servers(open_simulation: Open) -> None:
    with open_simulation():
        made_before.set("greeting", "hello")

    with open_simulation():
        assert made_before.get("greeting") is None


def test_a_real_connection_goes_on_afterwards_and_its_server_was_not_touched(
    open_simulation: Open, real: RedisServer
) -> None:
    before: Any = redis.Redis.from_url(real.url)
    before.set("name", "real")
    listening = before.pubsub()
    listening.subscribe("news")
    assert listening.get_message(timeout=15)["type"] == "subscribe"
    peers = before.client_id(), listening.connection._sock

    with open_simulation():
        before.set("name", "simulated")
        before.publish("news", "simulated")
    before.publish("news", "real")

    assert before.get("name") == b"real"
    assert listening.get_message(timeout=15)["data"] == b"real"
    assert (before.client_id(), listening.connection._sock) == peers


def test_a_connection_that_was_closed_meanwhile_connects_anew(
    open_simulation: Open, real: RedisServer
) -> None:
    before: Any = redis.Redis.from_url(real.url)
    first = before.client_id()

    with open_simulation():
        before.ping()
        before.close()

    assert before.client_id() > first


def test_nothing_of_redis_py_stays_changed(open_simulation: Open) -> None:
    methods = (
        dict(vars(redis.connection.AbstractConnection)),
        dict(vars(redis.asyncio.connection.AbstractConnection)),
    )
    callbacks = list(gc.callbacks)
    inside = client()

    with open_simulation():
        inside.ping()
        connection = inside.connection_pool._available_connections[0]

    assert methods == (
        dict(vars(redis.connection.AbstractConnection)),
        dict(vars(redis.asyncio.connection.AbstractConnection)),
    )
    assert connection._sock is None
    assert gc.callbacks == callbacks


def test_a_server_is_its_host_and_port_and_a_database_its_number(simulation: Simulation) -> None:
    client(host="localhost").set("name", "here")
    redis.Redis.from_url("redis://user:secret@127.0.0.1:6379/3").set("name", "third")
    redis.Redis.from_url("unix:///run/redis.sock").set("name", "socket")

    assert client(host="127.0.0.1").get("name") == b"here"
    assert client(db=3).get("name") == b"third"
    assert redis.Redis.from_url("unix:///run/redis.sock").get("name") == b"socket"
    assert client(host="redis.example.com").get("name") is None
    assert client(port=6380).get("name") is None
    assert redis.Redis(ssl=True).get("name") == b"here"


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_are_decoded_as_asked(simulation: Simulation, protocol: int) -> None:
    plain, decoding = client(protocol=protocol), client(protocol=protocol, decode_responses=True)
    plain.hset("colours", mapping={"sky": "blue", "müll": "grün"})
    plain.zadd("scores", {"ada": 1.5})

    assert plain.hgetall("colours") == {b"sky": b"blue", "müll".encode(): "grün".encode()}
    assert decoding.hgetall("colours") == {"sky": "blue", "müll": "grün"}
    assert decoding.zscore("scores", "ada") == 1.5
    assert decoding.type("scores") == "zset"
    assert decoding.set("name", "ada") is True
    assert decoding.execute_command("GET", "name", NEVER_DECODE=True) == b"ada"


def test_an_error_reply_is_raised_and_the_connection_goes_on(simulation: Simulation) -> None:
    ours = client()
    ours.set("name", "ada")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE Operation against a key"):
        ours.lpush("name", "x")
    with pytest.raises(redis.ResponseError, match="unknown command"):
        ours.execute_command("NONSENSE")
    with pytest.raises(redis.exceptions.NoScriptError):
        ours.evalsha("0" * 40, 0)
    with pytest.raises(redis.DataError, match="Invalid input of type"):
        ours.set("name", object())

    assert ours.get("name") == b"ada"


def test_keys_expire_in_virtual_hours(simulation: Simulation) -> None:
    ours = client()
    ours.set("day", "x", ex=86_400)
    ours.psetex("moment", 500, "x")

    time.sleep(0.4)
    assert ours.exists("moment") == 1
    time.sleep(23 * 3600)
    assert (ours.exists("moment"), ours.get("day"), ours.ttl("day")) == (0, b"x", 3600)
    time.sleep(3600)
    assert ours.get("day") is None


def test_the_end_of_a_key_is_told_at_its_instant(simulation: Simulation) -> None:
    ours = client()
    ours.set("before", "x", ex=5)
    ours.config_set("notify-keyspace-events", "Ex")
    listening = ours.pubsub(ignore_subscribe_messages=True)
    listening.psubscribe("__keyevent@*__:expired")
    ours.set("session", "x", ex=60)
    ours.lpush("unrelated", "x")
    said: list[tuple[bytes, bytes, int]] = []
    while len(said) < 2:
        message = listening.get_message(timeout=600)
        if message is not None:
            said.append((message["channel"], message["data"], round(simulation.elapsed)))

    assert said == [(b"__keyevent@0__:expired", b"before", 5), (b"__keyevent@0__:expired", b"session", 60)]


def test_a_lock_is_waited_for_in_virtual_time(simulation: Simulation) -> None:
    ours = client()
    held = ours.lock("job", timeout=60)
    held.acquire()

    assert not ours.lock("job", blocking_timeout=10).acquire()
    assert simulation.elapsed == pytest.approx(10, abs=0.3)
    assert ours.lock("job", blocking_timeout=3600).acquire()
    assert simulation.elapsed == pytest.approx(60, abs=0.3)
    with pytest.raises(LockNotOwnedError):
        held.release()


def test_a_blocking_pop_waits_for_another_task(simulation: Simulation) -> None:
    got: list[Any] = []
    simulation.after(0, lambda: got.append(("first", client().blpop("jobs"))))
    simulation.after(1, lambda: got.append(("second", client().brpop(["jobs", "others"], timeout=30))))
    simulation.after(
        2, lambda: got.append(("third", client().blpop("jobs", timeout=3), round(simulation.elapsed)))
    )
    simulation.after(4, lambda: client().rpush("jobs", "a"))
    simulation.after(20, lambda: client().rpush("jobs", "b"))
    simulation.run_until_idle()

    assert got == [("first", (b"jobs", b"a")), ("third", None, 5), ("second", (b"jobs", b"b"))]


def test_all_blocking_commands_end_when_something_comes(simulation: Simulation) -> None:
    got: dict[str, Any] = {}

    def note(name: str, ask: Callable[[Any], Any]) -> None:
        simulation.after(
            0, lambda: got.update({name: (ask(client(socket_timeout=None)), round(simulation.elapsed))})
        )

    note("blmove", lambda ours: ours.blmove("list", "target", timeout=100))
    note("bzpopmin", lambda ours: ours.bzpopmin("scores", timeout=100))
    note("xread", lambda ours: ours.xread({"stream": "$"}, block=100_000))
    simulation.after(50, lambda: client().rpush("list", "x"))
    simulation.after(51, lambda: client().zadd("scores", {"ada": 2}))
    simulation.after(52, lambda: client().xadd("stream", {"k": "v"}, id="1-1"))
    simulation.run_until_idle()

    assert got["blmove"] == (b"x", 50)
    assert (list(got["bzpopmin"][0]), got["bzpopmin"][1]) == ([b"scores", b"ada", 2.0], 51)
    assert got["xread"][1] == 52


def test_a_read_ends_at_the_sockets_timeout(simulation: Simulation) -> None:
    ours = client(socket_timeout=5, retry=None)

    with pytest.raises(redis.TimeoutError, match="Timeout reading from localhost:6379"):
        ours.blpop("jobs", timeout=60)

    assert simulation.elapsed == pytest.approx(5, abs=0.01)
    ours.rpush("jobs", "kept")
    assert ours.llen("jobs") == 1


def test_waiting_for_what_nobody_can_bring_is_an_error(simulation: Simulation) -> None:
    with pytest.raises(SimulationIdleError, match="waited for Redis to answer BLPOP jobs"):
        client(socket_timeout=None).blpop("jobs")


@pytest.mark.parametrize("protocol", [2, 3])
def test_messages_come_when_they_are_published(simulation: Simulation, protocol: int) -> None:
    ours = client(protocol=protocol, decode_responses=True)
    listening = ours.pubsub(ignore_subscribe_messages=True)
    listening.subscribe("news")
    listening.psubscribe("n*")
    simulation.after(30, lambda: ours.publish("news", "extra"))

    assert listening.get_message(timeout=10) is None
    said = []
    for message in listening.listen():
        said.append((message["type"], message["data"], round(simulation.elapsed)))
        if len(said) == 2:
            break
    assert said == [("message", "extra", 30), ("pmessage", "extra", 30)]
    assert ours.publish("elsewhere", "x") == 0


def test_polling_for_messages_lets_time_pass(simulation: Simulation) -> None:
    listening = client().pubsub(ignore_subscribe_messages=True)
    listening.subscribe("news")
    simulation.after(1, lambda: client().publish("news", "at last"))

    while (message := listening.get_message()) is None:
        pass

    assert message["data"] == b"at last"


def test_unsubscribing_from_nothing_is_confirmed(simulation: Simulation) -> None:
    listening = client().pubsub()
    listening.subscribe("news")
    listening.unsubscribe()

    assert [listening.get_message(timeout=1)["type"] for _ in range(2)] == ["subscribe", "unsubscribe"]
    assert client().pubsub_numsub("news") == [(b"news", 0)]


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_is_one_round_trip(simulation: Simulation, transaction: bool) -> None:
    ours = client()
    ours.ping()
    begin = simulation.elapsed
    pipe = ours.pipeline(transaction=transaction)
    pipe.set("n", 1).incr("n").hset("h", "a", "b").get("n").zadd("z", {"a": 1})

    assert pipe.execute() == [True, 2, 1, b"2", 1]
    assert simulation.elapsed - begin <= 0.0005


def test_a_failing_command_in_a_transaction_leaves_the_others(simulation: Simulation) -> None:
    ours = client()
    ours.set("text", "x")
    pipe = ours.pipeline()
    pipe.incr("text").set("after", "done")

    results = pipe.execute(raise_on_error=False)

    assert isinstance(results[0], redis.ResponseError)
    assert results[1] is True
    pipe.execute_command("SET", "one")
    pipe.set("never", "x")
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        pipe.execute()
    assert ours.mget("after", "never") == [b"done", None]


def test_a_watched_key_that_changes_ends_the_transaction(simulation: Simulation) -> None:
    ours = client()
    simulation.after(1, lambda: client().set("balance", 5))
    pipe = ours.pipeline()
    pipe.watch("balance")
    time.sleep(2)
    pipe.multi()
    pipe.set("balance", 1)

    with pytest.raises(redis.WatchError):
        pipe.execute()
    assert ours.transaction(lambda pipe: pipe.multi() or pipe.incr("balance"), "balance") == [6]


def test_scripts_run(simulation: Simulation) -> None:
    ours = client()
    script = ours.register_script(
        "return {redis.call('INCRBY', KEYS[1], ARGV[1]), redis.call('GET', KEYS[1])}"
    )

    assert script(keys=["n"], args=[5]) == [5, b"5"]
    assert script(keys=["n"], args=[5]) == [10, b"10"]
    # What is missing here for another reason than that there is no Lua.
    with pytest.raises(redis.ResponseError, match="unknown command 'script debug'"):
        ours.execute_command("SCRIPT", "DEBUG", "YES")


def test_some_seed_shows_a_lost_update(open_simulation: Open) -> None:
    found = []
    for seed in range(10):
        with open_simulation(seed=seed) as simulation:
            ours = client()

            def buy(ours: Any = ours) -> None:
                left = int(ours.get("stock") or 10)
                ours.set("stock", left - 1)

            for _ in range(2):
                simulation.after(0, buy)
            simulation.run_until_idle()
            found.append(ours.get("stock"))

    assert b"9" in found


def test_one_seed_gives_one_history(open_simulation: Open) -> None:
    def history() -> list[tuple[str, float]]:
        said: list[tuple[str, float]] = []
        with open_simulation(seed=5) as simulation:
            for name in "abc":
                listening = client().pubsub(ignore_subscribe_messages=True)
                listening.subscribe("news")
                simulation.after(
                    0,
                    lambda name=name, listening=listening: said.append(
                        (name, listening.get_message(timeout=9) and simulation.elapsed)
                    ),
                )
            simulation.after(1, lambda: client().publish("news", "x"))
            simulation.run_until_idle()
        return said

    assert history() == history()


def test_a_finalizer_may_talk_to_redis_at_any_time(simulation: Simulation) -> None:
    ours = client()
    ours.ping()
    listening = ours.pubsub()
    listening.subscribe("kept", "left")
    left: list[int] = []

    class Holder:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            listening.unsubscribe("left")
            left.append(ours.delete("thing"))

    ours.set("thing", "x")
    gone = weakref.ref(Holder())
    before = simulation.elapsed
    gc.collect()

    assert gone() is None
    assert left == [1]
    assert simulation.elapsed == before
    assert ours.pubsub_numsub("kept", "left") == [(b"kept", 1), (b"left", 0)]


def test_a_killed_client_connects_again(simulation: Simulation) -> None:
    ours, other = client(client_name="victim"), client()
    first = ours.client_id()
    assert ours.client_getname() == "victim"

    other.client_kill_filter(_id=first)

    assert ours.client_id() != first


def test_health_is_checked_in_virtual_time(simulation: Simulation) -> None:
    ours = client(health_check_interval=30)
    ours.set("a", 1)
    connection = ours.connection_pool._available_connections[0]
    first = connection.next_health_check
    time.sleep(100)

    assert ours.get("a") == b"1"
    assert connection.next_health_check > first + 99


def test_somebodys_own_fakeredis_is_let_alone(simulation: Simulation) -> None:
    theirs = fakeredis.FakeRedis()
    theirs.set("name", "theirs")
    client().set("name", "ours")

    assert theirs.get("name") == b"theirs"


@pytest.mark.parametrize("parser", ["_RESP2Parser", "_RESP3Parser", "_HiredisParser"])
def test_the_parser_makes_no_difference(simulation: Simulation, parser: str) -> None:
    if "Hiredis" in parser:
        pytest.importorskip("hiredis")
    parser_class = getattr(redis.connection, parser)
    pool = redis.ConnectionPool(parser_class=parser_class, protocol=3 if "3" in parser else 2)
    ours = client(connection_pool=pool)

    assert (ours.set("a", "b"), ours.get("a"), ours.hgetall("none")) == (True, b"b", {})


def test_bytes_that_somebody_packed_himself_are_understood(open_simulation: Open) -> None:
    pool: Any = redis.ConnectionPool()
    packed = pool.make_connection().pack_command("SET", "name", b"\r\n")

    with open_simulation():
        connection = pool.make_connection()
        connection.send_packed_command(packed)
        assert connection.read_response() == b"OK"
        connection.send_packed_command(connection.pack_command("CLIENT GETNAME"))
        assert connection.read_response() in (b"", None)
        assert client().get("name") == b"\r\n"
