"""What is done beside a story, in threads: alarms that ring once, and the courier of what was held back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_taskservice.errors import HarnessError

if TYPE_CHECKING:
    from pytest_taskservice.drivers.ledger import Ledger
    from pytest_taskservice.drivers.worker_place import Place

__all__ = ["COURIER", "Alarms", "Courier"]

COURIER = 0.01
"""How often is looked whether something is due, in seconds."""
_PATIENCE = 10.0


class Alarms:
    """What is to be done at its time, each in a thread of its own, until :meth:`close`."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self._set: dict[threading.Timer, str] = {}
        self._errors: list[HarnessError] = []

    def after(self, seconds: float, action: Callable[[], object], *, what: str = "") -> None:
        """Call ``action`` in so many seconds; with ``what``, its end is waited for."""

        def ring() -> None:
            try:
                if not self.closed.is_set():
                    action()
            except HarnessError as error:
                if not self.closed.is_set():
                    self._errors.append(error)
            finally:
                self._set.pop(timer, None)

        timer = threading.Timer(seconds, ring)
        timer.daemon = True
        self._set[timer] = what
        timer.start()

    def pending(self) -> str:
        """Return what is waited for."""
        return ", ".join(what for what in tuple(self._set.values()) if what)

    def check(self) -> None:
        """Raise what went wrong in the meantime."""
        if self._errors:
            raise self._errors.pop(0)

    def close(self) -> None:
        """Do no more."""
        self.closed.set()
        timers = tuple(self._set)
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join(_PATIENCE)


class Courier:
    """Delivers what was held back when it is due, until ``closed``; ``look`` is called each time."""

    def __init__(
        self, ledger: Ledger, place: Place, *, closed: threading.Event, look: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._place = place
        self._closed = closed
        self._look = look
        self._thread: threading.Thread | None = None

    def send(self) -> None:
        """Begin, if it is not under way already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._carry, name="taskservice-courier", daemon=True)
            self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _carry(self) -> None:
        from redis.exceptions import RedisError

        while not self._closed.wait(COURIER):
            self._look()
            for message in self._ledger.held():
                if message.due > time.time():
                    break
                try:
                    self._place.client().lpush(message.key, message.raw)
                except (RedisError, OSError):
                    break
                message.path.unlink(missing_ok=True)
