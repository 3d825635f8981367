"""Answers that a test awaits on a socket: one of its own threads may have to do something for them first.

A server in a thread of the test's process, as Django's ``live_server`` is, sends tasks and waits for their
results. That takes the simulation, which goes on while the test waits, and a socket's wait is in C.

Replaces ``recv`` and ``recv_into`` of ``socket.socket``, on which ``http.client`` and its like come down.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_taskservice.simulator.redis.sockets import socket_class

if TYPE_CHECKING:
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["install_awaited_answers"]

Await = Callable[[Callable[[float], bool], float | None], None]


def install_awaited_answers(patches: Patches, wait: Await) -> None:
    """Call ``wait`` before each blocking read, with its timeout and with what says whether to read.

    That waits for as many seconds as it is told.
    """
    owner = socket_class()
    for name, most in (("recv", 1), ("recv_into", 2)):
        patches.set(owner, name, _awaiting(getattr(owner, name), most, wait))


def _awaiting(read: Any, most: int, wait: Await) -> Any:
    def read_in_time(sock: Any, *args: Any, **options: Any) -> Any:
        timeout = sock.gettimeout()
        # Flags, which come last, may say that nobody waits. Nor does anybody for a socket that is closed.
        if timeout != 0 and len(args) <= most and not options and sock.fileno() >= 0:
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLIN)
            wait(lambda seconds: bool(poll.poll(seconds * 1000)), timeout)
        return read(sock, *args, **options)

    return read_in_time
