"""Publishing one run at a time: launches that come together share a round trip.

One thread per back end sends messages made from templates, and wakes each launch in its own event loop once
the broker has accepted its message. What is not plain enough for a template is Celery's own to publish.
"""

from __future__ import annotations

import logging
import os
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import anyio

from taskservice.backends.bulk import BATCH
from taskservice.backends.loops import current_notifier
from taskservice.backends.sender import Declined, PlainSender
from taskservice.errors import BackendUnavailableError, ServiceClosedError

if TYPE_CHECKING:
    from celery import Celery, Task

    from taskservice.backends.sender import Verdict
    from taskservice.backends.templates import Message

__all__ = ["Publisher"]

logger = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 5.0


class _Launch:
    """One message and the loop in which somebody waits until it is accepted."""

    __slots__ = ("_claim", "done", "message", "notify", "task", "verdict")

    def __init__(self, task: Task[..., Any], message: Message) -> None:
        self.task = task
        self.message = message
        self.done = anyio.Event()
        self.notify = current_notifier()
        self.verdict: Verdict = None
        self._claim = threading.Lock()

    def claim(self) -> bool:
        """Return whether the caller is the first to ask: the thread that sends it, or who gives up."""
        return self._claim.acquire(blocking=False)

    def tell(self, verdict: Verdict) -> None:
        """Wake who waits; called by the thread."""
        self.verdict = verdict
        self.notify(self.done.set)


class Publisher:
    """Publishes for everybody who launches through one back end, from any event loop and thread.

    Its thread starts with the first launch. Nothing is queued for which nobody waits.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._closed = False
        self._hopeless = False
        self.begin()
        _publishers.add(self)

    def begin(self) -> None:
        """Begin, or begin anew in a forked process: the thread stayed behind, and who held the lock."""
        self._lock = threading.Lock()
        self._queue: SimpleQueue[_Launch | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def publish(self, task: Task[..., Any], message: Message) -> bool:
        """Send ``message`` and return once the broker has it; False leaves all of it to Celery.

        `BackendUnavailableError` leaves open whether it was sent, and so does being cancelled once its turn
        has come; it is never sent twice.
        """
        launch = _Launch(task, message)
        if not self._enter(launch):
            return False

        try:
            await launch.done.wait()
        finally:
            launch.claim()

        verdict = launch.verdict
        if isinstance(verdict, Declined):
            self._hopeless = self._hopeless or verdict.for_good
            return False
        if verdict is not None:
            raise BackendUnavailableError("celery", str(verdict)) from verdict
        return True

    def close(self) -> None:
        """Stop the thread once all that was launched is sent; it blocks, for five seconds at most."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(timeout=CLOSE_SECONDS)

    def _enter(self, launch: _Launch) -> bool:
        if self._hopeless:
            return False

        with self._lock:
            if self._closed:
                raise ServiceClosedError("Celery back end")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_serve, args=(self._app, self._queue), name="taskservice-publisher", daemon=True
                )
                self._thread.start()
            # Within the lock, so that nothing comes after the end.
            self._queue.put(launch)
        return True


def _serve(app: Celery, queue: SimpleQueue[_Launch | None]) -> None:
    sender = PlainSender(app)
    try:
        while (first := queue.get()) is not None:
            taken, ended = _take(first, queue)
            _send(sender, taken)
            if ended:
                return
    finally:
        sender.close()


def _take(first: _Launch, queue: SimpleQueue[_Launch | None]) -> tuple[list[_Launch], bool]:
    found: list[_Launch | None] = [first]
    try:
        while len(found) < BATCH and found[-1] is not None:
            found.append(queue.get_nowait())
    except Empty:
        pass
    # One that nobody waits for any more is not sent.
    return [each for each in found if each is not None and each.claim()], found[-1] is None


def _send(sender: PlainSender, taken: list[_Launch]) -> None:
    try:
        verdicts = sender.send([(launch.task, launch.message) for launch in taken])
    except Exception as error:
        logger.exception("publishing failed")
        verdicts = [error] * len(taken)
    for launch, verdict in zip(taken, verdicts, strict=True):
        launch.tell(verdict)


def _begin_anew() -> None:
    for publisher in _publishers:
        publisher.begin()


_publishers: WeakSet[Publisher] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
