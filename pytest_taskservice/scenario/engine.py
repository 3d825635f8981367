"""Playing a scenario in a world: the only step with effects."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_taskservice.drivers.base import Driver, Outcome, TaskCall
from pytest_taskservice.errors import HarnessTimeoutError
from pytest_taskservice.history import EventLog
from pytest_taskservice.scenario.acts import Launch, Mark, Revoke, Step, Wait
from pytest_taskservice.scenario.behaviour import SYNTHETIC
from pytest_taskservice.scenario.expectations import Mismatch, Record, check, labels
from pytest_taskservice.scenario.invariants import ONE_FINAL_STATE, check_invariants
from pytest_taskservice.scenario.model import FINAL_STATUSES, Scenario
from pytest_taskservice.scenario.story import story_length
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["REAL_TIME", "Clock", "Verdict", "run"]

_PATIENCE = 10.0
_POLL = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """How the engine reads time and lets it pass.

    ``monotonic`` paces the steps, ``wall`` is the clock of the world's log, and ``pause`` waits for
    at most so many seconds.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    pause: Callable[[float], object]


def _pause(seconds: float) -> None:
    # Unlike sleep, a wait for an event that nobody sets is left alone by moved clocks.
    threading.Event().wait(seconds)


REAL_TIME = Clock(monotonic=time.monotonic, wall=time.time, pause=_pause)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What came of a scenario in one world.

    ``runs`` holds the run ids by captured name and ``outcomes`` how they ended, in the same order;
    ``start`` is the story's first instant in the log's clock. ``sometimes`` tells by an expectation's mark
    whether it held in this play; ``seed`` and ``digest`` are of a world that draws from one.
    """

    log: EventLog
    start: float
    runs: Mapping[str, tuple[str, ...]]
    outcomes: Mapping[str, tuple[Outcome, ...]]
    mismatches: tuple[Mismatch, ...]
    sometimes: Mapping[str, bool] = field(default_factory=dict)
    seed: int | None = None
    digest: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything was as it must be."""
        return not self.mismatches


def run(scenario: Scenario, driver: Driver, *, clock: Clock = REAL_TIME) -> Verdict:
    """Play ``scenario`` to its end and judge it.

    ``finally`` is played whatever happens, after the log was read: what it does is not judged, but
    has to end. Raise :class:`CapabilityError` where the driver cannot show what a launch needs.
    """
    play = _Play(scenario, driver, clock)
    try:
        play.perform(scenario.steps)
        verdict = play.judge()
    finally:
        play.clean_up()
    return play.with_late_findings(verdict)


class _Overdue(Exception):  # noqa: N818 - a turn of the story, caught where it ends
    """A step waited in vain; the rest of the story is not played."""


class _Play:
    """One performance of a scenario."""

    def __init__(self, scenario: Scenario, driver: Driver, clock: Clock) -> None:
        self._scenario = scenario
        self._driver = driver
        self._clock = clock
        self._zero = clock.monotonic()
        self._start = clock.wall()
        self._runs: dict[str, tuple[str, ...]] = {}
        self._launched: list[str] = []
        self._found: list[Mismatch] = []

    def perform(self, steps: tuple[Step, ...]) -> None:
        """Do the steps, each at its instant."""
        ended = self._elapsed()
        try:
            for step in steps:
                self._wait_until(step.at if step.at is not None else ended + step.after)
                self._do(step)
                ended = self._elapsed()
        except _Overdue:
            return

    def judge(self) -> Verdict:
        """Let every run end, and check what is expected."""
        scenario = self._scenario
        bound = max((claim.instant for claim in scenario.expect if claim.instant is not None), default=0.0)
        needed = max(bound, story_length(scenario) + _PATIENCE) - self._elapsed()
        unsettled = self._settle(max(_PATIENCE, needed), scenario.mark)
        endings = {run: self._driver.outcome(run) for run in self._launched}
        record = Record(
            endings=endings,
            log=EventLog(iter(self._driver.log())),
            start=self._start,
            runs=dict(self._runs),
            accepted=tuple(self._launched),
        )
        broken = check_invariants(record, mark=scenario.mark)
        # The runs themselves say it better than the wait for them.
        if unsettled and not any(found.invariant == ONE_FINAL_STATE for found in broken):
            broken.append(unsettled)
        mismatches = (*self._found, *check(scenario.expect, record), *broken)
        self._found.clear()
        return Verdict(
            log=record.log,
            start=record.start,
            runs=record.runs,
            outcomes={name: tuple(endings[run] for run in runs) for name, runs in record.runs.items()},
            mismatches=mismatches,
        )

    def clean_up(self) -> None:
        """Play ``finally``."""
        steps = self._scenario.cleanup
        if not steps:
            return

        self.perform(steps)
        if late := self._settle(_PATIENCE, steps[0].mark):
            self._found.append(late)

    def with_late_findings(self, verdict: Verdict) -> Verdict:
        """Return ``verdict`` with what went wrong in ``finally``."""
        return replace(verdict, mismatches=(*verdict.mismatches, *self._found))

    def _do(self, step: Step) -> None:
        match step:
            case Launch():
                self._launch(step)
            case Revoke():
                for run in self._runs.get(step.name, ()):
                    self._driver.revoke(run)
            case Wait(duration=float(duration)):
                self._wait_until(self._elapsed() + duration)
            case Wait():
                self._wait_for_runs(step)

    def _launch(self, step: Launch) -> None:
        task, config = self._scenario.tasks[step.task], self._scenario.config
        call = TaskCall(
            task=task.call or SYNTHETIC,
            args=(task.behaviour.to_json(),) if task.behaviour else step.args,
            kwargs=step.kwargs,
            label=task.name,
            countdown=step.countdown,
            expires=step.expires,
            queue=task.queue,
            priority=task.priority,
            soft_time_limit=config.task_soft_time_limit,
            time_limit=config.task_time_limit,
        )
        for _ in range(step.count):
            run = self._driver.launch(call)
            self._launched.append(run)
            if step.name is not None:
                self._runs[step.name] = (*self._runs.get(step.name, ()), run)

    def _wait_for_runs(self, step: Wait) -> None:
        until = self._elapsed() + step.within
        for name in step.runs:
            for label, run in labels(name, self._runs.get(name, ())):
                while (status := self._driver.outcome(run).status) not in FINAL_STATUSES:
                    if self._elapsed() >= until:
                        self._found.append(self._overdue(step, label, status))
                        raise _Overdue
                    self._clock.pause(_POLL)

    def _overdue(self, step: Wait, label: str, status: str) -> Mismatch:
        return Mismatch(
            mark=step.mark,
            expected=f"over within {format_duration(step.within)} of waiting",
            got=f"status {status}; the steps below were not played",
            run=label,
            at=self._elapsed(),
        )

    def _settle(self, timeout: float, mark: Mark) -> Mismatch | None:
        try:
            self._driver.settle(timeout=timeout)
        except HarnessTimeoutError as error:
            return Mismatch(
                mark=mark,
                expected=ONE_FINAL_STATE,
                got=str(error),
                at=self._elapsed(),
                invariant=ONE_FINAL_STATE,
            )
        return None

    def _elapsed(self) -> float:
        return self._clock.monotonic() - self._zero

    def _wait_until(self, instant: float) -> None:
        while (left := instant - self._elapsed()) > 0:
            self._clock.pause(left)
