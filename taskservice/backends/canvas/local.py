"""A canvas run in this process: what is due is started, and what never will be is ended.

There is no task that waits for the runs: each one's end, told by its watchers, starts the next.
"""

# ruff: noqa: D102 - Members documents the contract, once

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from taskservice.backends.attempts import Arguments, Attempt, attempt_of, map_attempt_of
from taskservice.backends.calls import own_expires
from taskservice.backends.canvas.plan import Plan, Run, placed
from taskservice.backends.canvas.progress import Progress
from taskservice.backends.records import AnyIOHandle, RunRecord
from taskservice.backends.remote import RemoteOutcome
from taskservice.errors import LaunchOptionError, RunCancelledError, RunExpiredError
from taskservice.runs import TaskState
from taskservice.submission import LaunchPlan, plan_launch

if TYPE_CHECKING:
    from taskservice.backends.canvas.handle import Member

__all__ = ["FinishedRuns", "LocalCanvas", "LocalRuns", "launch_plan", "plan_attempts"]

StartRun = Callable[[RunRecord, Attempt, Arguments, LaunchPlan], object]


def plan_attempts(plan: Plan) -> dict[str, Attempt]:
    """Return how each run's function is called, or the error for limits that cannot be kept."""
    found: dict[int, Attempt] = {}
    attempts: dict[str, Attempt] = {}
    for run in plan.runs:
        if run.items is not None:
            attempts[run.id] = map_attempt_of(run.func, run.items, star=run.star)
            continue
        if (key := id(run.func)) not in found:
            with placed(run.place):
                found[key] = attempt_of(run.func)
        attempts[run.id] = found[key]
    return attempts


def launch_plan(run: Run) -> LaunchPlan | None:
    """Return the plan for a run whose turn has come; ``None`` if it has expired by now."""
    try:
        return plan_launch(run.options, expires=own_expires(run.func))
    except LaunchOptionError:
        # All was well at the launch; only time has passed since.
        return None


@dataclass(frozen=True, slots=True)
class LocalRuns:
    """The runs of a canvas on AnyIO; see `Members`."""

    records: Sequence[RunRecord]

    @property
    def handles(self) -> Sequence[Member]:
        return [AnyIOHandle(record) for record in self.records]

    async def look(self) -> list[RemoteOutcome]:
        return [handle.seen() for handle in self.handles]

    async def stop(self, *, terminate: bool) -> bool:
        stopped = [each for each in self.records if not each.state.final and not each.in_thread]
        for record in stopped:
            record.stop()
        for record in stopped:
            await record.done.wait()
        return any(record.state is TaskState.REVOKED for record in stopped)


@dataclass(frozen=True, slots=True)
class FinishedRuns:
    """Runs that were all over before anybody got a handle; see `Members`."""

    handles: Sequence[Member]

    async def look(self) -> list[RemoteOutcome]:
        return [handle.seen() for handle in self.handles]

    async def stop(self, *, terminate: bool) -> bool:
        return False


class LocalCanvas:
    """Runs a plan: ``start`` starts a run, ``settle`` is told of a record that ended without one."""

    def __init__(
        self,
        plan: Plan,
        attempts: dict[str, Attempt],
        *,
        start: StartRun,
        settle: Callable[[RunRecord], object],
    ) -> None:
        self.records = [RunRecord(run_id=run.id, task=run.name) for run in plan.runs]
        self._by_id = {record.id: record for record in self.records}
        self._attempts = attempts
        self._start = start
        self._settle = settle
        self._progress = Progress(plan)
        self._going_on = False
        for record in self.records:
            record.withdraw = partial(self._withdraw, record)
            record.watchers.append(partial(self._note, record))

    def begin(self) -> None:
        """Start its first runs."""
        self._progress.begin()
        self._go_on()

    def _note(self, record: RunRecord) -> None:
        self._progress.note(record.id, AnyIOHandle(record).seen())
        self._go_on()

    def _withdraw(self, record: RunRecord) -> None:
        self._end(record, RemoteOutcome(state=TaskState.REVOKED, error=RunCancelledError(record.id)))

    def _go_on(self) -> None:
        # Ending a run comes back here, and a thousand that never start would be as deep.
        if self._going_on:
            return

        self._going_on = True
        progress = self._progress
        while progress.skipped or progress.due:
            if progress.skipped:
                run, outcome = progress.skipped.popleft()
                self._end(self._by_id[run.id], outcome)
            else:
                self._begin(*progress.due.popleft())
        self._going_on = False

    def _begin(self, run: Run, previous: Any) -> None:
        record = self._by_id[run.id]
        if record.withdraw is None:
            return

        plan = launch_plan(run)
        if plan is None:
            self._end(record, RemoteOutcome(state=TaskState.REVOKED, error=RunExpiredError(run.id)))
            return

        record.withdraw = None
        self._start(record, self._attempts[run.id], _arguments(run, previous), plan)

    def _end(self, record: RunRecord, outcome: RemoteOutcome) -> None:
        if record.state.final:
            return

        record.withdraw = None
        record.end(outcome.state, error=outcome.error)
        self._settle(record)


def _arguments(run: Run, previous: Any) -> Arguments:
    args, kwargs = run.arguments(previous)
    return Arguments(args=args, kwargs=kwargs)
