"""Results for ``taskservice``'s own Celery back end: heard by a fiber instead of by a thread on a socket."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery.backends.redis import RedisBackend

from pytest_taskservice.simulator.celery.quick_results import QuickClient
from pytest_taskservice.simulator.core.fibers import current_fiber
from taskservice.backends.results import ResultListener
from taskservice.errors import SoftTimeLimitError

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.substitutes import Patches
    from pytest_taskservice.simulator.threads import Threads

__all__ = ["install_limits", "install_listener"]

_celery_backend: Any = import_module("taskservice.backends.celery")
_definitions: Any = import_module("taskservice.backends.definitions")


def install_listener(patches: Patches, simulation: Simulation, threads: Threads) -> None:
    """Let back ends that are opened from now on hear of results in ``simulation``."""

    def make(backend: Any, **options: Any) -> ResultListener:
        listener = ResultListener(backend, **options)
        if isinstance(backend, RedisBackend):
            unthreaded: Any = listener
            unthreaded._thread = _Ear(listener, backend.client, simulation, threads)  # noqa: SLF001 - its own
        return listener

    patches.set(_celery_backend, "ResultListener", make)


def install_limits(patches: Patches) -> None:
    """Have ``taskservice``'s soft time limits reach simulated bodies: no signal does."""
    inside, call_with_signal = _definitions._in_pool_process, _definitions._call_with_signal  # noqa: SLF001 - replaced

    def in_pool_process() -> bool:
        return current_fiber() is not None or bool(inside())

    def call_softly(call: Callable[[], Any], seconds: float | None) -> Any:
        fiber = current_fiber()
        process: Any = None if fiber is None else fiber.process
        if process is None:
            return call_with_signal(call, seconds)
        before, process.soft_limit = process.soft_limit, partial(SoftTimeLimitError, seconds)
        try:
            return call()
        finally:
            process.soft_limit = before

    patches.set(_definitions, "_in_pool_process", in_pool_process)
    patches.set(_definitions, "_call_with_signal", call_softly)


class _Ear:
    """Stands for the listener's thread: a fiber that follows every channel."""

    def __init__(
        self, listener: ResultListener, client: Any, simulation: Simulation, threads: Threads
    ) -> None:
        self.closed = False
        self._listener = listener
        self._client = client
        self._simulation = simulation
        self._threads = threads
        self._started = False
        self._woken = False

    def start(self) -> None:
        """Begin to listen."""
        if not self._started:
            self._started = True
            self._simulation.after(0.0, self._listen)

    def wake(self) -> None:
        """Look what has changed; callable from any thread."""
        self._woken = True
        if not self.closed:
            # What waits is asked after an event: this is one.
            self._simulation.after(0.0, _nothing)

    def close(self) -> bool:
        """Stop listening; return whether that was news."""
        first, self.closed = not self.closed, True
        return first

    def _listen(self) -> None:
        pubsub, line = self._follow()
        while not self.closed:
            self._simulation.wait(lambda: self._woken or bool(line.inbox), timeout=None, what="results")
            if self._woken:
                self._woken = False
                wanted = self._listener.wanted
                self._listener.followed([each for each in self._listener.touched() if each in wanted])
            if line.inbox:
                heard = [(each[2], each[3]) for each in line.inbox if each[0] == b"pmessage"]
                line.inbox.clear()
                self._listener.take(heard)
            self._threads.touch()
        if pubsub is not None:
            pubsub.close()
        line.close()

    def _follow(self) -> tuple[Any, Any]:
        """Return what keeps the subscription, and the line on which it is told."""
        if isinstance(self._client, QuickClient):
            line = self._client.open_line()
            line.send([[b"PSUBSCRIBE", b"*"]])
            return None, line
        # A back end of somebody's own kind has a client of redis-py, over the same simulated server.
        pubsub = self._client.pubsub()
        pubsub.psubscribe("*")
        return pubsub, pubsub.connection._sock  # noqa: SLF001 - a line, as the simulated connections make it


def _nothing() -> None:
    """Be an event."""
