"""Seeds played in several processes: forked children look for the lowest one that does not end well.

    found = lowest_failing(play, range(1000), processes=4)
    found          # None, or the seed and what it ended with

A child tells no more than that: whoever forked it plays the seed again, for its story. What all share is one
page of numbers: up to which seed it is still worth looking, and which one each child is at. Children end with
their parent: it ends them, and the reaper does if it was killed.
"""

from __future__ import annotations

import mmap
import os
import selectors
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from pytest_taskservice.errors import HarnessError
from taskservice.reaper import Release, shared_reaper

__all__ = ["Failing", "lowest_failing"]

_MOST_TOLD = 10_000
_CHUNK = 65_536


class Failing(NamedTuple):
    """A seed that did not end well in a child, and what it ended with."""

    seed: int
    told: str


def lowest_failing(play: Callable[[int], Any], seeds: Sequence[int], processes: int) -> Failing | None:
    """Call ``play`` with every seed, in ``processes`` forked children; return the lowest one that raised.

    ``seeds`` are in rising order. Raises ``HarnessError`` if a child ends without saying why.
    """
    if not hasattr(os, "fork"):
        raise HarnessError(
            "processes= forks, which this system cannot: leave it out, or spread tests over xdist"
        )
    _refuse_connections()
    children = _Children(play, seeds, processes)
    try:
        for index in range(processes):
            children.fork(index)
        return children.wait()
    finally:
        children.end()


class _Children:
    """The processes of one search."""

    def __init__(self, play: Callable[[int], Any], seeds: Sequence[int], processes: int) -> None:
        self._play = play
        self._seeds = seeds
        self._processes = processes
        page = mmap.mmap(-1, 8 * (processes + 1))
        # Written by the parent: the lowest seed known to end badly. Then by each child: the one it plays.
        self._page = memoryview(page).cast("q")
        self._page[0] = sys.maxsize
        self._children: dict[int, tuple[int, Release]] = {}
        self._pipes = selectors.DefaultSelector()
        self._lowest: Failing | None = None

    def fork(self, index: int) -> None:
        """Start one more."""
        receiver, sender = os.pipe()
        _flush()
        with warnings.catch_warnings():
            # Python warns of threads, which docs/simulator.md tells of: xdist's workers always have one.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            _be_child(lambda: self._look(index, sender))
        with suppress(OSError):
            # The child does the same: whoever is first.
            os.setpgid(pid, pid)
        self._children[index] = (pid, shared_reaper().watch_group(pid))
        os.close(sender)
        self._pipes.register(receiver, selectors.EVENT_READ, (index, bytearray()))

    def wait(self) -> Failing | None:
        """Return the lowest seed that ended badly in any of them, once all have ended."""
        while self._pipes.get_map():
            for key, _ in self._pipes.select():
                index, heard = key.data
                chunk = os.read(key.fd, _CHUNK)
                heard += chunk
                if not chunk:
                    self._pipes.unregister(key.fd)
                    os.close(key.fd)
                    self._hear(index, bytes(heard))
        return self._lowest

    def end(self) -> None:
        """Leave no child behind, and nothing open."""
        for index in list(self._children):
            self._end(index)
        for key in list(self._pipes.get_map().values()):
            os.close(key.fd)
        self._pipes.close()

    def _hear(self, index: int, heard: bytes) -> None:
        status, text = heard[:1], heard[1:].decode(errors="replace")
        code = self._end(index, kill=not status)
        seed = self._page[index + 1]
        if not status:
            how = f"signal {-code}" if code < 0 else f"status {code}"
            raise HarnessError(f"a process that played seed {seed} ended with {how}, and said nothing")
        if status == _FOUND and (self._lowest is None or seed < self._lowest.seed):
            self._lowest = Failing(seed, text)
            self._page[0] = seed

    def _end(self, index: int, *, kill: bool = True) -> int:
        pid, release = self._children.pop(index)
        if kill:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        release()
        return os.waitstatus_to_exitcode(status)

    def _look(self, index: int, sender: int) -> None:
        """Be a child: play each of its seeds, until one ends badly or all that are left are above it."""
        answer = _NOTHING
        for seed in self._seeds[index :: self._processes]:
            if seed > self._page[0]:
                break
            self._page[index + 1] = seed
            try:
                self._play(seed)
            except BaseException as error:  # noqa: BLE001 - a skip too; it is raised again in the parent
                answer = _FOUND + "".join(traceback.format_exception(error))[-_MOST_TOLD:].encode()
                break
        os.write(sender, answer)


_NOTHING, _FOUND = b"-", b"!"


def _be_child(work: Callable[[], None]) -> NoReturn:
    """Do ``work`` and end at once: what the parent has to do at its end is not the child's."""
    try:
        os.setpgid(0, 0)
        work()
    finally:
        # What it printed goes with it: the parent prints the same when it plays the seed that was found.
        os._exit(0)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()


def _refuse_connections() -> None:
    """Refuse to fork with a connection of Django's to a server, which two processes cannot share."""
    django: Any = sys.modules.get("django.db")
    if django is None:
        return
    for connection in django.connections.all(initialized_only=True):
        if connection.connection is not None and not _in_memory(connection):
            raise HarnessError(
                f"processes= forks, and Django's connection {connection.alias!r} is open, which processes "
                "cannot share: leave processes out, or have a test that uses no database"
            )


def _in_memory(connection: Any) -> bool:
    known = getattr(connection, "is_in_memory_db", None)
    return bool(known is not None and known())
