"""A worker's event loop hears at once what another thread asks of it, whichever kombu it is."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from kombu.asynchronous.hub import Hub

from taskservice.worker.waking import wake_for_calls

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = 15.0
CALLS = 30  # each would wait for a second


@pytest.fixture
def hub() -> Iterator[Any]:
    """A running loop that has something to wait for, and nothing to do."""
    hub: Any = Hub()
    quiet, other = socket.socketpair()
    ready = threading.Event()
    stop = threading.Event()

    def serve() -> None:
        hub.add_reader(quiet, print)
        wake_for_calls(hub)
        wake_for_calls(hub)  # as after a reconnection
        loop = hub.create_loop()
        ready.set()
        while not stop.is_set():
            next(loop)
        hub.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(WAIT)
    yield hub
    stop.set()
    hub.call_soon(stop.set)
    thread.join(WAIT)
    quiet.close()
    other.close()


def test_a_call_of_another_thread_is_heard_at_once(hub: Any) -> None:
    left = threading.Semaphore(0)
    done = threading.Event()

    def ask() -> None:
        for _ in range(CALLS):
            hub.call_soon(left.release)
            left.acquire()
        done.set()

    threading.Thread(target=ask, daemon=True).start()

    assert done.wait(WAIT)
