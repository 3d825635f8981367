"""redis-py's asyncio clients in a simulation, in a loop that keeps real time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pytest_taskservice.simulator.core.simulation import Simulation

Open = Callable[..., AbstractContextManager[Simulation]]


def client(**options: Any) -> Any:
    return redis.asyncio.Redis(**options)


@pytest.mark.parametrize("protocol", [2, 3])
def test_commands_pipelines_and_scripts_work(simulation: Simulation, protocol: int) -> None:
    async def main() -> list[Any]:
        async with client(protocol=protocol, decode_responses=True, db=2) as ours:
            await ours.set("name", "ada", ex=60)
            async with ours.pipeline() as pipe:
                said = await pipe.incr("n").hset("h", "a", "b").hgetall("h").execute()
            script = ours.register_script("return redis.call('GET', KEYS[1])")
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                await ours.lpush("name", "x")
            return [await ours.get("name"), said, await script(keys=["name"]), await ours.ttl("name")]

    assert asyncio.run(main()) == ["ada", [1, 1, {"a": "b"}], "ada", 60]
    assert redis.Redis(db=2).get("name") == b"ada"


def test_tasks_of_one_loop_come_in_between(simulation: Simulation) -> None:
    async def buy(ours: Any) -> None:
        left = int(await ours.get("stock") or 10)
        await ours.set("stock", left - 1)

    async def main() -> Any:
        async with client() as ours:
            await asyncio.gather(buy(ours), buy(ours))
            return await ours.get("stock")

    assert asyncio.run(main()) == b"9"


def test_a_blocking_pop_waits_for_a_task_of_the_same_loop(simulation: Simulation) -> None:
    async def main() -> Any:
        async with client() as ours:

            async def push() -> None:
                await asyncio.sleep(0.01)
                await ours.rpush("jobs", "x")

            return (await asyncio.gather(ours.blpop("jobs", timeout=3600), push()))[0]

    assert list(asyncio.run(main())) == [b"jobs", b"x"]
    assert simulation.elapsed < 60


def test_a_blocking_pop_waits_for_the_simulation(simulation: Simulation) -> None:
    async def main() -> list[Any]:
        async with client(socket_timeout=None) as ours:
            return [tuple(await ours.blpop("jobs", timeout=100)), await ours.blpop("jobs", timeout=30)]

    simulation.after(50, lambda: redis.Redis().rpush("jobs", "x"))

    assert asyncio.run(main()) == [(b"jobs", b"x"), None]
    assert simulation.elapsed == pytest.approx(80, abs=0.1)


def test_loops_of_two_tasks_take_turns_on_one_thread(simulation: Simulation) -> None:
    got: list[Any] = []

    async def serve(mine: str, other: str) -> None:
        async with client(socket_timeout=None) as ours:
            await ours.rpush(other, mine)
            got.append(tuple(await ours.blpop(mine)))

    simulation.after(0, lambda: asyncio.run(serve("a", "b")))
    simulation.after(1, lambda: asyncio.run(serve("b", "a")))
    simulation.run_until_idle()

    assert sorted(got) == [(b"a", b"b"), (b"b", b"a")]


def test_a_thread_from_before_does_not_hold_a_wait_to_real_time(open_simulation: Open) -> None:
    over = threading.Event()
    stranger = threading.Thread(target=over.wait, daemon=True)
    stranger.start()

    async def main() -> Any:
        async with client(socket_timeout=None) as ours:
            return await ours.blpop("jobs", timeout=86_400)

    try:
        with open_simulation() as simulation:
            assert asyncio.run(main()) is None
            assert simulation.elapsed == pytest.approx(86_400, abs=1)
    finally:
        over.set()
        stranger.join()


def test_messages_come_in_virtual_time(simulation: Simulation) -> None:
    async def main() -> list[Any]:
        async with client() as ours, ours.pubsub(ignore_subscribe_messages=True) as listening:
            await listening.subscribe("news")
            said = [await listening.get_message(timeout=10)]
            async for message in listening.listen():
                said.append(message["data"])
                break
            return said

    simulation.after(30, lambda: redis.Redis().publish("news", "extra"))

    assert asyncio.run(main()) == [None, b"extra"]
    assert simulation.elapsed == pytest.approx(30, abs=0.1)


def test_a_cancelled_wait_gives_no_connection_back_that_has_a_reply_to_come(simulation: Simulation) -> None:
    async def main() -> Any:
        async with client(max_connections=1) as ours:
            waiting = asyncio.create_task(ours.blpop("jobs"))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await ours.rpush("jobs", "x")
            return await ours.lrange("jobs", 0, -1)

    assert asyncio.run(main()) == [b"x"]


def test_a_client_does_not_outlive_its_loop(simulation: Simulation) -> None:
    ours = client()
    asyncio.run(ours.set("a", 1))

    with pytest.raises(RuntimeError, match="Event loop is closed"):
        asyncio.run(ours.get("a"))


def test_a_client_from_before_serves_in_the_simulation_and_after_it(open_simulation: Open) -> None:
    ours = client(port=1, retry=Retry(NoBackoff(), 0))

    async def ask() -> Any:
        return await ours.set("a", 1)

    with open_simulation():
        assert asyncio.run(ask()) is True
    with pytest.raises(redis.ConnectionError):
        asyncio.run(ask())
    with open_simulation():
        assert asyncio.run(ask()) is True
