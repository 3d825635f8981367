"""When runs of any Celery worker started, and how long they ran: from its task events.

A worker sends them with ``-E``, or once it was told to while it runs; a client can only listen.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

__all__ = ["TaskEvents"]

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0


class TaskEvents:
    """Calls ``take(run_id, started, ran)`` in a thread; ``None`` for what an event does not say."""

    def __init__(self, app: Celery, take: Callable[[str, float | None, float | None], object]) -> None:
        self._app = app
        self._take = take
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="task-events", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop, without waiting."""
        self._closed = True

    def _follow(self) -> None:
        while not self._closed:
            try:
                with self._app.connection_for_read() as connection:
                    receiver = self._app.events.Receiver(connection, handlers={"*": self._hear})
                    while not self._closed:
                        with suppress(TimeoutError):
                            receiver.capture(limit=None, timeout=POLL_SECONDS, wakeup=False)
            except (OperationalError, OSError) as error:
                logger.debug("task events broke off: %s", error)
                threading.Event().wait(POLL_SECONDS)

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "task-started":
            self._take(event["uuid"], event["timestamp"], None)
        elif kind == "task-succeeded":
            self._take(event["uuid"], None, event.get("runtime"))
