"""The sweeper: what becomes of runs whose deadline has passed. Any number of them may sweep."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Final

from taskservice.errors import (
    RunNotClaimableError,
    TaskServiceError,
    WorkflowConflictError,
    WorkflowExpiredError,
    WorkflowOverError,
)
from taskservice.workflow.store.base import apply_signal
from taskservice.workflow.transitions import Overdue

if TYPE_CHECKING:
    from taskservice.workflow.model import WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore

__all__ = ["SweeperThread", "sweep"]

logger = logging.getLogger(__name__)

SHARE: Final = 100
_SWEPT_BY_OTHERS: Final = (
    RunNotClaimableError,
    WorkflowConflictError,
    WorkflowExpiredError,
    WorkflowOverError,
)


def sweep(store: WorkflowStore, *, now: float) -> list[WorkflowRun]:
    """End the runs that are overdue, and return those that another worker must take up.

    Each is returned to one sweeper only, once for each lease that passes without a worker.
    """
    orphans: list[WorkflowRun] = []
    seen: set[str] = set()
    while new := [run_id for run_id in store.due(now, limit=SHARE) if run_id not in seen]:
        seen.update(new)
        for run_id in new:
            try:
                change = apply_signal(store, run_id, Overdue(), now=now)
            except _SWEPT_BY_OTHERS:
                continue
            run = change.run
            if change.orphaned:
                orphans.append(run)
            elif run.reason is not None:
                logger.warning(
                    "workflow run %s failed: %s", run_id, run.reason.value, extra={"run_id": run_id}
                )
    return orphans


class SweeperThread:
    """Sweeps every ``interval`` seconds and hands orphans to ``dispatch``; a store away is tried again."""

    def __init__(
        self,
        store: Callable[[], WorkflowStore],
        dispatch: Callable[[WorkflowRun], object],
        *,
        interval: float,
        clock: Callable[[], float] = time,
    ) -> None:
        self._store = store
        self._dispatch = dispatch
        self._interval = interval
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="taskservice-sweeper", daemon=True)

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, once what is being swept has been."""
        self._stopped.set()
        self._thread.join(timeout=self._interval + 5)

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                self._sweep()
            except TaskServiceError as error:
                logger.warning("workflow runs not swept: %s", error)
            except Exception:
                logger.exception("workflow runs not swept")
            self._stopped.wait(self._interval)

    def _sweep(self) -> None:
        for run in sweep(self._store(), now=self._clock()):
            logger.info("workflow run %s sent again", run.id, extra={"run_id": run.id})
            self._dispatch(run)
