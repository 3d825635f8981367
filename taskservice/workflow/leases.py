"""Leases: writing to a run that this worker has, and saying from time to time that it still does."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from taskservice.errors import (
    BackendUnavailableError,
    LeaseLostError,
    WorkflowConflictError,
    WorkflowExpiredError,
    WorkflowOverError,
)
from taskservice.workflow.store.base import apply_signal
from taskservice.workflow.transitions import Renew, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from taskservice.workflow.model import JournalEntry, WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore
    from taskservice.workflow.transitions import Signal

__all__ = ["AbandonedRun", "Keeper", "LeaseKeeper", "LeasedRun", "term"]

logger = logging.getLogger(__name__)

FIRST_WAIT: Final = 0.05
LONGEST_WAIT: Final = 1.0
LONGEST_TERM: Final = 1.0
_LOST: Final = (LeaseLostError, WorkflowOverError, WorkflowExpiredError)
_LATER: Final = (BackendUnavailableError, WorkflowConflictError)


class AbandonedRun(BaseException):
    """Leaves a workflow function whose run is no longer this worker's; never leaves the runner."""


class LeasedRun:
    """A run under this worker's token. Its writes wait while the store is away and the lease holds."""

    def __init__(self, store: WorkflowStore, run: WorkflowRun, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self.run = run
        self.token = run.lease.token
        self.lost = threading.Event()
        self._listeners: dict[object, Callable[[], object]] = {}

    @property
    def lapsed(self) -> bool:
        """Whether the lease is over by the clock, so that another worker may have the run."""
        return self._clock() >= self.run.lease.until

    def confirm(self) -> None:
        """Renew the lease now; `AbandonedRun` if the run is not ours any more."""
        self.write(Renew(token=self.token))

    @contextmanager
    def telling(self, listener: Callable[[], object]) -> Iterator[None]:
        """Have ``listener`` called, from any thread, if the run is lost in the block or was before."""
        mine = object()
        self._listeners[mine] = listener
        if self.lost.is_set():
            listener()
        try:
            yield
        finally:
            self._listeners.pop(mine, None)

    def write(self, signal: Signal, entry: JournalEntry | None = None) -> None:
        """Do to the run what ``signal`` says; `AbandonedRun` if it is not ours any more."""
        self.patiently(lambda: self._write(signal, entry))

    def patiently(self, write: Callable[[], None]) -> None:
        """Call ``write`` until the store answers; `AbandonedRun` if the lease is over before."""
        wait = FIRST_WAIT
        while not self.lost.is_set():
            try:
                write()
            except _LOST as error:
                self._lose(error)
            except _LATER as error:
                if self._clock() >= self.run.lease.until:
                    self._lose(error)
                self.lost.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                return
        raise AbandonedRun(self.run.id)

    def renew(self) -> bool:
        """Say that we still have it; False if the store did not answer, and it is to be tried again."""
        if not self._lock.acquire(blocking=False):
            return True  # a write is under way, which says the same

        try:
            self._apply(Renew(token=self.token), None)
        except _LOST as error:
            self._lose(error)
        except _LATER:
            return False
        finally:
            self._lock.release()
        return True

    def _write(self, signal: Signal, entry: JournalEntry | None) -> None:
        with self._lock:
            self._apply(signal, entry)

    def _apply(self, signal: Signal, entry: JournalEntry | None) -> None:
        now = self._clock()
        change = decide(self.run, signal, now=now)
        # What we wrote last is nearly always what is there still: one round trip instead of two.
        if not self._store.write(self.run, change, now=now, entry=entry):
            change = apply_signal(self._store, self.run.id, signal, now=now, entry=entry)
        self.run = change.run

    def _lose(self, error: Exception) -> None:
        if not self.lost.is_set():
            logger.info("workflow run %s left: %s", self.run.id, error, extra={"run_id": self.run.id})
        self.lost.set()
        for listener in tuple(self._listeners.values()):
            listener()


class Keeper(Protocol):
    """Renews leases while their runs are executed."""

    def keep(self, leased: LeasedRun) -> AbstractContextManager[None]:
        """Renew the lease until the block is left."""

    def close(self) -> None:
        """Renew nothing more."""


class LeaseKeeper:
    """The one thread of a process that renews leases, three times within each one's length.

    Once a second at least: that is also how a worker hears that its run was stopped.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: dict[LeasedRun, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def keep(self, leased: LeasedRun) -> Iterator[None]:
        """Renew the lease until the block is left."""
        with self._condition:
            self._due[leased] = monotonic() + term(leased)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._serve, name="taskservice-leases", daemon=True)
                self._thread.start()
            self._condition.notify()
        try:
            yield
        finally:
            with self._condition:
                self._due.pop(leased, None)

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _serve(self) -> None:
        while (leased := self._wait()) is not None:
            try:
                renewed = leased.renew()
            except Exception:
                logger.exception("lease not renewed", extra={"run_id": leased.run.id})
                renewed = False
            self._again(leased, term(leased) if renewed else term(leased) / 3)

    def _again(self, leased: LeasedRun, seconds: float) -> None:
        with self._condition:
            if leased.lost.is_set():
                self._due.pop(leased, None)
            elif leased in self._due:
                self._due[leased] = monotonic() + seconds

    def _wait(self) -> LeasedRun | None:
        with self._condition:
            while not self._closed:
                now = monotonic()
                first = min(self._due, key=self._due.__getitem__, default=None)
                if first is not None and self._due[first] <= now:
                    return first
                self._condition.wait(None if first is None else self._due[first] - now)
        return None


def term(leased: LeasedRun) -> float:
    """Return after how many seconds a lease is renewed."""
    return min(leased.run.deadlines.lease / 3, LONGEST_TERM)
