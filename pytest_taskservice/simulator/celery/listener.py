"""Results for ``taskservice``'s own Celery back end: heard in the simulation instead of by a thread on a socket."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskservice.backends.results import ResultListener

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.substitutes import Patches
    from pytest_taskservice.simulator.threads import Threads

__all__ = ["install_listener"]

_celery_backend: Any = import_module("taskservice.backends.celery")


def install_listener(patches: Patches, simulation: Simulation, threads: Threads) -> None:
    """Let back ends that are opened from now on hear of results in ``simulation``."""

    class SimulatedListener(ResultListener):
        """Has a fiber follow all results, instead of a thread."""

        _following = False

        def _add(self, keys: Sequence[bytes], waiter: Any) -> None:
            with self._lock:
                for key in keys:
                    self._waiters.setdefault(key, set()).add(waiter)
            if not self._following:
                self._following = True
                simulation.after(0.0, self._follow)
            self._read_stored(keys)

        def _remove(self, keys: Sequence[bytes], waiter: Any) -> None:
            with self._lock:
                for key in keys:
                    waiters = self._waiters.get(key, set())
                    waiters.discard(waiter)
                    if not waiters:
                        self._waiters.pop(key, None)

        def _follow(self) -> None:
            pubsub = self._backend.client.pubsub(ignore_subscribe_messages=True)
            pubsub.psubscribe("*")
            while True:
                message = pubsub.get_message(timeout=None)
                if message is not None:
                    threads.touch()
                    self._let_leave()
                    self.take([(message["channel"], message["data"])])

    patches.set(_celery_backend, "ResultListener", SimulatedListener)
