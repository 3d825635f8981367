"""What the clock stands still for: threads, sockets and processes at work, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import queue
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest

from pytest_taskservice.simulator.loops.world import open_stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_taskservice.clock import Clock

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.anyio
in_world = pytest.mark.taskservice(backend="anyio")

Ticks = list[float]


@pytest.fixture
async def ticks(taskservice_clock: Clock) -> AsyncIterator[Ticks]:
    """The instants of a timer that is always due in a minute: it goes on as soon as nothing is at work."""
    found: Ticks = []

    async def tick() -> None:
        while True:
            await anyio.sleep(60)
            found.append(taskservice_clock.monotonic())

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        yield found
        group.cancel_scope.cancel()


def work_for_real() -> int:
    """Be busy for so long that a clock that did not stand still would be far away."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.1)
    return 1


@in_world
async def test_a_thread_at_work(ticks: Ticks) -> None:
    assert await anyio.to_thread.run_sync(work_for_real) == 1
    assert ticks == []


@in_world
async def test_a_thread_that_sleeps_is_not_at_work(ticks: Ticks, taskservice_clock: Clock) -> None:
    await anyio.to_thread.run_sync(time.sleep, 150)

    assert len(ticks) == 2
    assert taskservice_clock.now() == BEGIN + timedelta(seconds=150)


@in_world
async def test_a_thread_that_waits_for_its_loop_is_not_at_work(taskservice_clock: Clock) -> None:
    def call_back() -> None:
        anyio.from_thread.run(anyio.sleep, 60)
        time.sleep(5)
        anyio.from_thread.run_sync(work_for_real)

    await anyio.to_thread.run_sync(call_back)

    assert taskservice_clock.now() == BEGIN + timedelta(seconds=65)


@in_world
async def test_a_thread_that_was_left_to_itself_holds_nothing(taskservice_clock: Clock) -> None:
    gate = threading.Event()
    release = threading.Lock()
    release.acquire()

    def stay() -> None:
        gate.set()
        release.acquire(timeout=20)

    try:
        with anyio.move_on_after(60):
            await anyio.to_thread.run_sync(time.sleep, 3600, abandon_on_cancel=True)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: anyio.to_thread.run_sync(stay, abandon_on_cancel=True))
            while not gate.is_set():
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await anyio.sleep(60)
    finally:
        release.release()

    assert taskservice_clock.now() == BEGIN + timedelta(seconds=120)


@in_world
async def test_jobs_that_wait_for_a_limiter_hold_nothing(taskservice_clock: Clock) -> None:
    limiter = anyio.CapacityLimiter(1)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lambda: anyio.to_thread.run_sync(time.sleep, 100, limiter=limiter))

    assert taskservice_clock.now() == BEGIN + timedelta(seconds=300)


@in_world
async def test_a_socket_that_is_waited_for(ticks: Ticks, taskservice_clock: Clock) -> None:
    async def echo_late(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            received = await stream.receive()
            await anyio.to_thread.run_sync(work_for_real)
            await stream.send(received)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo_late)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"?")
            with anyio.fail_after(30):
                assert await stream.receive() == b"?"
        before = list(ticks)
        await taskservice_clock.sleep(minutes=10)  # a socket that only listens holds nothing
        group.cancel_scope.cancel()

    assert (before, len(ticks)) == ([], 10)


@in_world
async def test_a_peer_in_a_real_thread(ticks: Ticks) -> None:
    ours, theirs = socket.socketpair()

    def answer_late() -> None:
        work_for_real()
        theirs.sendall(b"!")

    peer = threading.Thread(target=answer_late)
    ours.setblocking(False)
    peer.start()

    await anyio.wait_readable(ours)

    assert (ours.recv(1), ticks) == (b"!", [])
    peer.join()
    ours.close()
    theirs.close()


@in_world
async def test_a_child_process(ticks: Ticks) -> None:
    finished = await anyio.run_process([sys.executable, "-c", "print('done')"])

    assert (finished.stdout.strip(), ticks) == (b"done", [])


def test_a_stream_that_nobody_reads_holds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        await asyncio.sleep(3600)
        writer.close()
        theirs.close()

    with open_stage():
        asyncio.run(main())

    # It would have been waited for until it was given up, which is logged.
    assert caplog.messages == []


def test_executors_of_the_loop_and_of_the_test() -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(executor, time.sleep, 100) for _ in range(3)))
        await asyncio.to_thread(time.sleep, 100)

    with open_stage() as stage:
        asyncio.run(main())
        with ThreadPoolExecutor(2) as executor:
            assert list(executor.map(lambda _: time.sleep(50), range(4))) == [None] * 4

        assert stage.now() == BEGIN.timestamp() + 500


def test_a_thread_of_the_test() -> None:
    with open_stage() as stage:
        thread = threading.Thread(target=time.sleep, args=(3600,))
        thread.start()
        thread.join()

        assert stage.now() == BEGIN.timestamp() + 3600


def test_waiting_with_a_timeout_is_virtual() -> None:
    with open_stage() as stage:
        with pytest.raises(queue.Empty):
            queue.SimpleQueue[int]().get(timeout=0.01)  # C: it cannot be seen, and is waited for
        real = stage.now()
        assert not threading.Event().wait(timeout=3600)

        assert (real, stage.now()) == (BEGIN.timestamp(), BEGIN.timestamp() + 3600)
