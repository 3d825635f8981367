"""Threads of a test that talk to a simulated Redis."""

from __future__ import annotations

import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    import pytest

    from pytest_taskservice.simulator.core.simulation import Simulation


def client(**options: Any) -> Any:
    return redis.Redis(**options)


def test_a_thread_waits_for_a_task_and_a_task_for_a_thread(simulation: Simulation) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def beside() -> None:
        theirs = client(socket_timeout=None)
        got.put(theirs.blpop("to-thread"))
        theirs.rpush("from-thread", "pong")

    thread = threading.Thread(target=beside)
    thread.start()
    simulation.after(5, lambda: client().rpush("to-thread", "ping"))
    answer = client(socket_timeout=None).blpop("from-thread")
    thread.join(15)

    assert (got.get(timeout=15), answer) == ((b"to-thread", b"ping"), (b"from-thread", b"pong"))


def test_threads_that_are_the_first_at_a_server_reach_the_same_one(simulation: Simulation) -> None:
    threads = 4
    begin = threading.Barrier(threads)

    def beside() -> None:
        for port in range(20_000, 20_030):
            begin.wait(15)
            client(port=port).incr("seen")

    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for each in [pool.submit(beside) for _ in range(threads)]:
                each.result(timeout=30)
    finally:
        sys.setswitchinterval(switches)

    assert {client(port=port).get("seen") for port in range(20_000, 20_030)} == {b"4"}


def test_what_a_thread_brings_as_the_last_thing_it_does_has_come(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go = threading.Lock()
    may_go.acquire()

    def beside() -> None:
        may_go.acquire()
        client().rpush("from-thread", "pong")

    thread = threading.Thread(target=beside)
    thread.start()
    outsiders: Any = simulation.outsiders
    let_run = outsiders.let_run

    def late() -> Any:
        # It is gone when it is asked whether there is anybody who might bring it.
        if may_go.locked() and thread.is_alive():
            may_go.release()
            while thread.is_alive():
                pass
        return let_run()

    monkeypatch.setattr(outsiders, "let_run", late)

    assert client(socket_timeout=None).blpop("from-thread") == (b"from-thread", b"pong")
