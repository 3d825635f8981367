"""A worker's end: what runs may go on for a while, and then goes back to its queue.

Celery's warm shutdown has no bound, and its soft one always lasts to its bound. Here a thread watches
a warm one. When the time is over it kills the processes of a prefork pool, whose runs Celery then gives
back as it does after any lost process. Threads cannot be killed, nor can the only one of a solo pool:
their messages are given back, and the process ends under them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from billiard.exceptions import WorkerLostError
from celery import signals
from celery.app.task import Context
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.worker import state
from kombu.transport import virtual

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["install_stopping"]

logger = logging.getLogger(__name__)

BURIAL_SECONDS: Final = 5.0
"""How long Celery may take to give back the runs of processes that were killed."""


def install_stopping(app: Celery, settings: Settings) -> None:
    """Bound the warm shutdown of workers of ``app``; a second call does nothing."""
    watches: dict[str, _Watch] = {}
    grace = settings.shutdown_grace.total_seconds()

    def note(sender: Any = None, **_: object) -> None:
        if sender.app is app:
            watches[sender.hostname] = _Watch(sender, grace)

    def begin(sender: Any = None, how: str = "", **_: object) -> None:
        # Inside a signal handler, where a log record may wait for the lock of the one it interrupted.
        if how == "Warm" and sender in watches:
            watches[sender].start()

    def end(sender: Any = None, **_: object) -> None:
        if sender.app is app and sender.hostname in watches:
            watches.pop(sender.hostname).over.set()

    uid = f"taskservice-stopping-{id(app)}"
    signals.worker_init.connect(note, weak=False, dispatch_uid=uid)
    signals.worker_shutting_down.connect(begin, weak=False, dispatch_uid=uid)
    signals.worker_shutdown.connect(end, weak=False, dispatch_uid=uid)


class _Watch:
    """Waits until the worker has stopped, ``grace`` seconds at most; ``over`` says that it has."""

    def __init__(self, worker: Any, grace: float) -> None:
        self.over = threading.Event()
        self._worker = worker
        self._grace = grace
        self._thread = threading.Thread(target=self._serve, name="taskservice-stopping", daemon=True)

    def start(self) -> None:
        """Begin to wait; a second call does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def _serve(self) -> None:
        logger.info("stopping: %d runs have %g s to end", len(_running()), self._grace)
        if self.over.wait(self._grace):
            return

        for request in _running():
            what = "is given back to its queue" if request.task.acks_late else "fails, acknowledged early"
            logger.warning(
                "run %s of %s did not end in %g s and %s",
                request.id,
                request.name,
                self._grace,
                what,
                extra={"run_id": request.id},
            )
        if isinstance(self._worker.pool, ProcessPool) and self._kill_processes():
            return
        self._end_process()

    def _kill_processes(self) -> bool:
        """Kill what runs, and return whether Celery then came to its end by itself."""
        for request in _running():
            with suppress(ProcessLookupError, TypeError):  # it ended, or has just been handed over
                os.kill(request.worker_pid, signal.SIGKILL)
        return self.over.wait(BURIAL_SECONDS)

    def _end_process(self) -> NoReturn:
        try:
            for request in _running():
                if not request.task.acks_late:
                    _fail(request)
            # The heartbeat and whatever else listens: it will not be sent by Celery any more.
            signals.worker_shutdown.send(sender=self._worker)
            _give_back(self._worker.consumer)
        except Exception:
            logger.exception("could not give everything back")
        finally:
            logging.shutdown()
            os._exit(0)


def _running() -> list[Any]:
    # The worker's main thread changes the set; a WeakSet may notice while it is copied.
    for _ in range(5):
        with suppress(RuntimeError):
            return list(state.active_requests)
    return []


def _fail(request: Any) -> None:
    error = WorkerLostError("the worker was stopped while it ran")
    request.task.backend.mark_as_failure(request.id, error, request=Context(request.request_dict))
    # A solo pool gets round to it only when the run is over.
    if not request.message.acknowledged:
        request.message.ack()


def _give_back(consumer: Any) -> None:
    """Return unacknowledged messages to their queues.

    A broker that holds them by connection, as RabbitMQ does, returns them when this one breaks.
    """
    channel = getattr(consumer.task_consumer, "channel", None)
    if isinstance(channel, virtual.Channel):
        # Closed, and not only restored: a BRPOP on its way would take what has just been given back.
        channel.close()
