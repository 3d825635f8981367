"""What makes a Celery worker one that executes and sweeps workflow runs."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from taskservice.backends.definitions import register_definitions
from taskservice.workflow.runtime import remember_settings, worker_runtime
from taskservice.workflow.sweeper import SweeperThread
from taskservice.workflow.tasks import WORKFLOW_TASKS, send_again

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["install_workflows"]

logger = logging.getLogger(__name__)


def install_workflows(app: Celery, settings: Settings) -> None:
    """Have workers of ``app`` know the workflows' tasks, and sweep from ready to shutdown.

    A second call does nothing. The main process sweeps, whatever its pool is busy with.
    """
    from celery import signals

    register_definitions(app, WORKFLOW_TASKS, payload_limit=settings.payload_limit)
    remember_settings(app, settings)
    threads: list[SweeperThread] = []
    interval = settings.workflow_sweep_interval.total_seconds()

    def begin(sender: Any = None, **_: object) -> None:
        # The consumer sends this signal again after each reconnection to its broker.
        if getattr(sender, "app", None) is app and not threads:
            threads.append(
                SweeperThread(lambda: worker_runtime(app).store, partial(send_again, app), interval=interval)
            )
            threads[0].start()

    def end(sender: Any = None, **_: object) -> None:
        if getattr(sender, "app", None) is app and threads:
            threads.pop().stop()

    uid = f"taskservice-workflows-{id(app)}"
    signals.worker_ready.connect(begin, weak=False, dispatch_uid=uid)
    signals.worker_shutdown.connect(end, weak=False, dispatch_uid=uid)
