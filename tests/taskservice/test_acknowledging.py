"""Acknowledging without waiting: every delivery is forgotten in Redis, whatever becomes of the connection."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from kombu import Connection, Exchange, Producer, Queue
from redis import Redis

from taskservice import CeleryBackend, ConfigurationError, Settings, create_app
from taskservice.worker.acknowledging import Acknowledger
from tests.taskservice import worker_tasks
from tests.taskservice.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.taskservice.conftest import RedisProcess
    from tests.taskservice.worker_groups import StartWorker

WAIT = 40.0
RUNS = 200
QUEUE = Queue("letters", Exchange("letters"), routing_key="letters")


class PlayedLoop:
    """An event loop whose time the test decides."""

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []

    def call_later(self, _: float, call: Callable[[], None]) -> None:
        self._due.append(call)

    def pass_time(self) -> None:
        due, self._due = self._due, []
        for call in due:
            call()


class Broker:
    """Deliveries from a real Redis, on channels of kombu's."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.loop = PlayedLoop()
        self.acknowledger = Acknowledger()
        self.client: Any = stack.enter_context(Redis.from_url(url))
        self._url = url
        self._stack = stack

    def connect(self) -> Any:
        """Return a new channel, whose acknowledgements never go along with anything else."""
        channel: Any = self._stack.enter_context(Connection(self._url)).channel()
        self.acknowledger.begin(channel, self.loop, lambda _: False)
        return channel

    def deliver(self, channel: Any) -> Any:
        """Return a message that waits to be acknowledged."""
        Producer(channel, QUEUE.exchange, routing_key="letters").publish({}, declare=[QUEUE])
        return QUEUE.bind(channel).get(no_ack=False)

    def lose_connections(self) -> None:
        self.client.client_kill_filter(_type="normal", skipme=True)

    @property
    def unacknowledged(self) -> tuple[int, int]:
        return self.client.hlen("unacked"), self.client.zcard("unacked_index")


@pytest.fixture
def broker(redis_process: RedisProcess) -> Iterator[Broker]:
    with ExitStack() as stack:
        yield Broker(redis_process.url, stack)


def test_a_delivery_is_forgotten_without_anybody_waiting(broker: Broker) -> None:
    channel = broker.connect()
    messages = [broker.deliver(channel) for _ in range(3)]
    assert broker.unacknowledged == (3, 3)

    for message in messages:
        message.ack()

    until(lambda: broker.unacknowledged == (0, 0), "acknowledgement")
    assert channel.qos.can_consume()


def test_an_acknowledgement_that_met_a_lost_connection_is_sent_again(broker: Broker) -> None:
    channel = broker.connect()
    first, second = broker.deliver(channel), broker.deliver(channel)
    first.ack()
    broker.loop.pass_time()
    broker.lose_connections()

    second.ack()
    broker.loop.pass_time()

    until(lambda: broker.unacknowledged == (0, 0), "acknowledgement")


def test_what_nobody_answered_goes_out_with_the_next_channel(broker: Broker) -> None:
    message = broker.deliver(broker.connect())
    broker.acknowledger.end([message.delivery_tag])
    assert broker.unacknowledged == (1, 1)

    broker.connect()

    until(lambda: broker.unacknowledged == (0, 0), "acknowledgement")


def test_another_thread_waits_for_the_answer(broker: Broker) -> None:
    message = broker.deliver(broker.connect())

    thread = threading.Thread(target=message.ack)
    thread.start()
    thread.join(WAIT)

    assert broker.unacknowledged == (0, 0)


def test_after_the_end_each_answer_is_waited_for(broker: Broker) -> None:
    message = broker.deliver(broker.connect())
    broker.acknowledger.end([])

    message.ack()

    assert broker.unacknowledged == (0, 0)


def test_a_seam_that_is_gone_is_told(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("kombu.transport.redis.Channel.unacked_index_key")

    with pytest.raises(ConfigurationError, match=r"unacked_index_key is gone"):
        broker.connect()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_leaves_nothing_unacknowledged(
    redis_process: RedisProcess, start_worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    diary = tmp_path / "diary"
    diary.touch()

    async def collect() -> list[object]:
        app = create_app(Settings(redis_url=redis_process.url))
        async with CeleryBackend(app) as backend:
            calls = [(str(diary), number) for number in range(RUNS)]
            handles = await backend.launch_many(worker_tasks.write_down, calls)
            start_worker(redis_process.url, pool=pool, slots=1 if pool == "solo" else 2)
            with anyio.fail_after(WAIT):
                return [await handle.result() for handle in handles]

    values = anyio.run(collect)

    assert values == list(range(RUNS))
    with Redis.from_url(redis_process.url) as client:
        until(lambda: (client.hlen("unacked"), client.zcard("unacked_index")) == (0, 0), "acknowledgement")


def test_a_worker_acknowledges_and_takes_in_one_round_trip(
    redis_process: RedisProcess, start_worker: StartWorker, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    diary.touch()

    def transactions() -> int:
        return int(client.info("commandstats").get("cmdstat_exec", {}).get("calls", 0))

    async def collect() -> None:
        async with CeleryBackend(create_app(Settings(redis_url=redis_process.url))) as backend:
            calls = [(str(diary), number) for number in range(RUNS)]
            for handle in await backend.launch_many(worker_tasks.write_down, calls):
                await handle.result(WAIT)

    with Redis.from_url(redis_process.url) as found:
        client: Any = found
        start_worker(redis_process.url)
        anyio.run(collect)
        before = transactions()
        anyio.run(collect)
        made = transactions() - before

    # kombu makes one of each acknowledgement; the worker's heartbeat and the like make a few.
    assert made < RUNS // 2


def test_a_worker_goes_on_where_redis_forgot_its_scripts(
    redis_process: RedisProcess, start_worker: StartWorker, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    diary.touch()

    async def collect(client: Any) -> list[object]:
        async with CeleryBackend(create_app(Settings(redis_url=redis_process.url))) as backend:
            calls = [(str(diary), number) for number in range(RUNS)]
            handles = await backend.launch_many(worker_tasks.write_down, calls)
            await handles[RUNS // 4].result(WAIT)
            client.script_flush()
            return [await handle.result(WAIT) for handle in handles]

    with Redis.from_url(redis_process.url) as client:
        start_worker(redis_process.url)
        values = anyio.run(collect, client)
        until(lambda: (client.hlen("unacked"), client.zcard("unacked_index")) == (0, 0), "acknowledgement")

    assert values == list(range(RUNS))
    assert sorted(map(int, diary.read_text().split())) == list(range(RUNS))
