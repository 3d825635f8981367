"""Waking a worker's event loop for what other threads ask of it.

``Hub.call_soon`` takes a call from any thread. Before 5.7 kombu does not wake its loop for it: it is heard
when a message comes, or a second later. The threads of a pool acknowledge that way, so a worker that takes
one message for each of them would end a few runs a second.

Leaned on, of kombu/asynchronous/hub.py before 5.7: ``Hub.call_soon``, replaced on the one hub, and
``Hub.add_reader``.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from celery import bootsteps
from kombu.asynchronous import Hub

from taskservice.backends.versions import KOMBU

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["install_waking", "wake_for_calls"]

_WAKES_ITSELF: Final = KOMBU >= (5, 7)


def install_waking(app: Celery) -> None:
    """Have the event loop of workers of ``app`` hear at once; a second call does nothing."""
    app.steps["consumer"].add(_Wake)


def wake_for_calls(hub: Any) -> None:
    """Have ``hub`` hear at once of ``call_soon``; to be called again after a reconnection, which empties it.

    By the thread that runs the hub. Nothing to do where kombu sees to it, or where no hub of kombu's turns.
    """
    needs_waking = isinstance(hub, Hub) and not _WAKES_ITSELF
    if not needs_waking:
        return

    waker = getattr(hub.call_soon, "__self__", None)
    if not isinstance(waker, _Waker):
        waker = _Waker(hub)
        hub.call_soon = waker.call_soon
    hub.add_reader(waker.reader, waker.drain)


class _Wake(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        wake_for_calls(parent.hub)


class _Waker:
    """A socket in the loop that another thread writes to."""

    def __init__(self, hub: Any) -> None:
        self._original = hub.call_soon
        self._thread = threading.get_ident()
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def call_soon(self, callback: Any, *args: Any) -> Any:
        found = self._original(callback, *args)
        if threading.get_ident() != self._thread:
            with suppress(BlockingIOError):  # full: it is awake as soon as it looks
                self._writer.send(b"\0")
        return found

    def drain(self) -> None:
        with suppress(BlockingIOError):
            self.reader.recv(4096)
