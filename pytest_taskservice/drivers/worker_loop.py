"""A worker's event loop, asked from another thread to do something."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from taskservice.worker.waking import wake_for_calls

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WorkerLoop"]


class WorkerLoop:
    """The loop of one worker process, whatever connection it is on."""

    def __init__(self) -> None:
        self._hub: Any = None

    def attach(self, hub: Any) -> None:
        """Speak to ``hub`` from now on; again after a reconnection, which empties it."""
        self._hub = hub
        wake_for_calls(hub)

    def call(self, action: Callable[[], object], deadline: float) -> bool:
        """Run ``action`` on the loop, and return whether it ran before ``deadline``, a monotonic instant."""
        done = threading.Event()
        errors: list[Exception] = []

        def run() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - raised in the thread that asked
                errors.append(error)
            done.set()

        self._hub.call_soon(run)
        finished = done.wait(max(0.0, deadline - time.monotonic()))
        if errors:
            raise errors[0]
        return finished
