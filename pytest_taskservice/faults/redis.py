"""A Redis that may be killed: a process of our own whose journal brings back what it held."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.faults import processes
from pytest_taskservice.redis.process import embedded_binary, server_binary, spawn, stop, wait_until_ready
from taskservice.programs import free_port

if TYPE_CHECKING:
    from taskservice.reaper import Reaper

__all__ = ["MortalRedis"]

_ATTEMPTS = 5


class MortalRedis:
    """A server from the same binary as the ``provider``'s, on one port from its first start to :meth:`close`.

    Every answered write is in its journal by then, so SIGKILL loses none; that of the machine might.
    """

    def __init__(self, provider: str, *, reaper: Reaper, timeout: float = 10.0) -> None:
        self._binary = server_binary() if provider == "server" else str(embedded_binary())
        self._reaper = reaper
        self._timeout = timeout
        self._closing = ExitStack()
        self._home, release = reaper.folder("taskservice-redis-")
        self._closing.callback(release)
        self._closing.callback(shutil.rmtree, self._home, ignore_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._release = _nothing
        self.paused = False
        self.port = 0
        try:
            self._first_start()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Come up again, with what was held; return once it answers."""
        if self.alive:
            return
        self._process, self._release = spawn(self._binary, self.port, self._home, self._reaper, journal=True)
        wait_until_ready(self._process, self.port, self._timeout, self._home)

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            stop(self._process)
        self._gone()

    def terminate(self) -> None:
        """Ask it to end, and return once it has."""
        if self._process is not None:
            self.resume()
            processes.terminate(self._process.pid)
            try:
                self._process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                raise RedisProviderError(
                    f"{self._binary} did not end within {self._timeout:g} s of SIGTERM"
                ) from None
        self._gone()

    def pause(self) -> None:
        """Stop it: it holds its connections and answers none of them."""
        if self._process is not None:
            processes.pause(self._process.pid)
            self.paused = True

    def resume(self) -> None:
        """Let it go on."""
        if self._process is not None and self.paused:
            processes.resume(self._process.pid)
        self.paused = False

    def close(self) -> None:
        """End it, and leave no file; may be called twice."""
        self.kill()
        self._closing.close()

    def _first_start(self) -> None:
        for attempt in range(_ATTEMPTS):
            self.port = free_port()
            try:
                self.start()
            except RedisProviderError:
                # Another program may have been faster on the port.
                self.kill()
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _gone(self) -> None:
        self._process, self.paused = None, False
        self._release()
        self._release = _nothing


def _nothing() -> None:
    """Release nothing."""
