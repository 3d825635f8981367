"""Runs of an eager Celery app: over before the launch returns, kept in a bounded table."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from celery import signals

from taskservice.backends.idempotency import LocalKeys
from taskservice.backends.remote import RemoteOutcome, limit_error
from taskservice.errors import PayloadError, PayloadSizeError, RunCancelledError, RunNotFoundError
from taskservice.payloads import wire_value
from taskservice.runs import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EagerRuns"]


class EagerRuns:
    """Outcomes by run id, at most ``limit`` of them."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._uid = f"taskservice-eager-{id(self)}"
        self._outcomes: OrderedDict[str, RemoteOutcome] = OrderedDict()
        self._started: Counter[str] = Counter()
        self._under_way: set[str] = set()
        self._keys = LocalKeys()
        self._one_by_one = anyio.Lock()

    def open(self) -> None:
        """Begin to count attempts: an eager result does not know its own."""
        signals.task_prerun.connect(self._count, weak=False, dispatch_uid=self._uid)

    def close(self) -> None:
        """Stop counting."""
        signals.task_prerun.disconnect(dispatch_uid=self._uid)

    async def run_once(self, key: str | None, run_id: str, apply: Callable[[], Any]) -> str:
        """Do as `run` in a thread, unless ``key`` has a run; return the id of the one that has it."""
        if key is None:
            await to_thread.run_sync(self.run, run_id, apply)
            return run_id

        async with self._one_by_one:
            known = self._keys.run_of(key)
            if known is None:
                await to_thread.run_sync(self.run, run_id, apply)
                self._keys.keep(key, run_id)
            return known or run_id

    def run(self, run_id: str, apply: Callable[[], Any]) -> None:
        """Have ``apply`` run it to its end, and keep what came of it."""
        self._under_way.add(run_id)
        try:
            outcome = _outcome(run_id, apply)
        finally:
            self._under_way.discard(run_id)
            attempts = self._started.pop(run_id, 0)

        self.keep(
            run_id,
            RemoteOutcome(state=outcome.state, value=outcome.value, error=outcome.error, attempts=attempts),
        )

    def keep(self, run_id: str, outcome: RemoteOutcome) -> None:
        """Keep what came of a run, and forget the oldest if there are too many."""
        self._outcomes[run_id] = outcome
        while len(self._outcomes) > self._limit:
            oldest, _ = self._outcomes.popitem(last=False)
            self._keys.forget(oldest)

    def get(self, run_id: str) -> RemoteOutcome:
        """Return what came of a run, or raise `RunNotFoundError`."""
        try:
            return self._outcomes[run_id]
        except KeyError:
            raise RunNotFoundError(run_id) from None

    def _count(self, task_id: str = "", **_: object) -> None:
        if task_id in self._under_way:
            self._started[task_id] += 1


def _outcome(run_id: str, apply: Callable[[], Any]) -> RemoteOutcome:
    try:
        result = apply()
    except Exception as error:  # noqa: BLE001 - task_eager_propagates hands over what the task raised
        return RemoteOutcome(state=TaskState.FAILURE, error=limit_error(error) or error)

    if result.state == TaskState.REVOKED:
        return RemoteOutcome(state=TaskState.REVOKED, error=RunCancelledError(run_id))
    if isinstance(result.result, BaseException):
        return RemoteOutcome(state=TaskState.FAILURE, error=limit_error(result.result) or result.result)
    try:
        return RemoteOutcome(state=TaskState.SUCCESS, value=wire_value(result.result, "result"))
    except (PayloadError, PayloadSizeError) as error:
        return RemoteOutcome(state=TaskState.FAILURE, error=error)
