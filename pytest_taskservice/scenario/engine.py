"""Playing a scenario in a world: the only step with effects."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, cast

from pytest_taskservice.drivers.base import CapabilityError
from pytest_taskservice.errors import FaultError, HarnessTimeoutError
from pytest_taskservice.history import EventKind, EventLog
from pytest_taskservice.scenario.expectations import check, check_sometimes
from pytest_taskservice.scenario.horizon import firm_horizon, longest, looks, open_claims
from pytest_taskservice.scenario.invariants import ONE_FINAL_STATE, check_invariants
from pytest_taskservice.scenario.model import FINAL_STATUSES
from pytest_taskservice.scenario.nemesis import draws
from pytest_taskservice.scenario.pace import REAL_TIME, Clock, Pace
from pytest_taskservice.scenario.performance import WORKFLOW_FINAL, Performance
from pytest_taskservice.scenario.record import Mismatch, Record
from pytest_taskservice.scenario.subjects import runs_of

if TYPE_CHECKING:
    from pytest_taskservice.drivers.base import Driver, Outcome, StoryDriver, WorkflowOutcome
    from pytest_taskservice.scenario.acts import FaultCall, Mark
    from pytest_taskservice.scenario.model import Scenario
    from pytest_taskservice.scenario.record import ClientTale, CommandResult, FaultTale

__all__ = ["REAL_TIME", "Clock", "Verdict", "WorkerSpan", "run"]

_PATIENCE = 10.0
_CLAIMS_LATER_BY = 0.1
_LAST_LOOKS = 3
_NEWS = 2.0
# What Redis transports wait before they give a message to somebody else, unless told.
_REDELIVERY = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpan:
    """One worker's life, in the log's clock; ``ends`` is ``None`` for one that outlived the story."""

    name: str
    slots: int
    begins: float
    ends: float | None = None
    queues: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What came of a scenario in one world.

    ``runs`` holds the run ids by captured name and ``outcomes`` how they ended, in the same order;
    ``workflows`` and ``workflow_outcomes`` likewise. ``start`` is the story's first instant in the log's
    clock and ``end`` the last. Faults that bear no name are under the empty one. ``sometimes`` says of each
    such expectation, by its place in the file, whether it was so in this play. ``digest`` is empty where
    a world does not play the same story twice.
    """

    log: EventLog
    start: float
    runs: Mapping[str, tuple[str, ...]]
    outcomes: Mapping[str, tuple[Outcome, ...]]
    mismatches: tuple[Mismatch, ...]
    end: float = 0.0
    seed: int | None = None
    digest: str = ""
    workflows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    workflow_outcomes: Mapping[str, tuple[WorkflowOutcome | None, ...]] = field(default_factory=dict)
    commands: Mapping[str, tuple[CommandResult, ...]] = field(default_factory=dict)
    clients: Mapping[str, tuple[ClientTale, ...]] = field(default_factory=dict)
    faults: Mapping[str, tuple[FaultTale, ...]] = field(default_factory=dict)
    workers: tuple[WorkerSpan, ...] = ()
    sometimes: Mapping[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether everything was as it must be."""
        return not self.mismatches


def run(scenario: Scenario, driver: Driver, *, clock: Clock = REAL_TIME, seed: int = 0) -> Verdict:
    """Play ``scenario`` to its end and judge it; ``seed`` draws the faults of its nemesis.

    ``finally`` is played whatever happens, after the log was read: what it does is not judged, but
    has to end. Raise :class:`CapabilityError` where the driver cannot show what a step needs, and
    :class:`ScenarioError`, with its place, for a step that nobody could do.
    """
    play = _Play(scenario, driver, clock, seed)
    try:
        play.tell()
        verdict = play.judge()
    finally:
        play.clean_up()
    return play.with_late_findings(verdict)


class _Play:
    """One play of a scenario."""

    def __init__(self, scenario: Scenario, driver: Driver, clock: Clock, seed: int) -> None:
        self._scenario = scenario
        self._driver = driver
        self._seed = seed
        # Where time is real nobody waits for an hour.
        self._redelivery = 0.0 if clock is REAL_TIME else _REDELIVERY
        self._pace = Pace(clock)
        # A driver of somebody's own need not know what the story does without.
        self._performance = Performance(scenario, cast("StoryDriver", driver), self._pace)
        self._keys: dict[str, list[tuple[float, int]]] = {}

    def tell(self) -> None:
        """Do all steps, and go on for as long as anything is to be seen."""
        for instant in looks(self._scenario):
            self._pace.at(instant, partial(self._look, self._pace.start + instant))
        if self._scenario.faults is not None:
            for instant, fault in draws(self._scenario.faults, seed=self._seed):
                self._pace.at(instant, partial(self._strike, fault))
        self._performance.perform(self._scenario.steps)
        if not self._performance.found:
            self._pace.wait_until(firm_horizon(self._scenario))
        self._pace.forget()
        self._performance.heal_lasting()

    def judge(self) -> Verdict:
        """Let every run end, and check what is expected."""
        scenario = self._scenario
        bound = max((claim.instant for claim in scenario.expect if claim.instant is not None), default=0.0)
        needed = max(bound, longest(scenario, redelivery=self._redelivery) + _PATIENCE) - self._pace.elapsed()
        unsettled = self._settle(max(_PATIENCE, needed), scenario.mark)
        # What lay in wait for a run has had its chance.
        self._performance.heal()
        self._await_open_claims()
        self._await_tales()
        self._performance.read_clients()
        self._look()
        record = self._last_record()
        broken = check_invariants(record, mark=scenario.mark, unchecked=scenario.unchecked)
        # The runs themselves say it better than the wait for them.
        told = any(found.invariant == ONE_FINAL_STATE for found in broken)
        if unsettled and not told and "one_final_state" not in scenario.unchecked:
            broken.append(unsettled)
        return self._verdict(record, (*self._performance.found, *check(scenario.expect, record), *broken))

    def clean_up(self) -> None:
        """Play ``finally``."""
        self._performance.found.clear()
        self._pace.forget()
        steps = self._scenario.cleanup
        if not steps:
            return

        self._performance.perform(steps)
        self._performance.heal()
        if late := self._settle(_PATIENCE, steps[0].mark):
            self._performance.found.append(late)

    def with_late_findings(self, verdict: Verdict) -> Verdict:
        """Return ``verdict`` with what went wrong in ``finally``."""
        return replace(verdict, mismatches=(*verdict.mismatches, *self._performance.found))

    def _strike(self, fault: FaultCall) -> None:
        # The seed may draw somebody to strike where nobody is left.
        with suppress(FaultError):
            try:
                self._performance.inject(fault)
            except CapabilityError as error:
                assert self._scenario.faults is not None
                error.place = str(self._scenario.faults.mark)
                raise

    def _look(self, at: float | None = None) -> None:
        """See how many keys there are of each workflow run; looking takes time, and is told as of ``at``."""
        runs = self._performance.started
        if not runs:
            return
        control = cast("StoryDriver", self._driver).workflows()
        for run in runs:
            now = self._pace.log_time() if at is None else at
            self._keys.setdefault(run, []).append((now, control.stored_keys(run)))

    def _await_open_claims(self) -> None:
        """Go on until what is still expected of workflow runs, workers and the beat has come true."""
        claims = open_claims(self._scenario)
        until = max((claim.instant or 0.0 for claim in claims), default=0.0)
        if self._pace.elapsed() >= until:
            return

        def settled() -> bool:
            over = bool(self._performance.started) and self._performance.workflows_over()
            return over or not check(claims, self._record())

        # No step follows, and each look is one at all runs, of which a beat makes ever more.
        self._pace.wait_for(settled, until=until, later_by=_CLAIMS_LATER_BY)

    def _await_tales(self) -> None:
        """Wait a moment until what a store knows is told, too: the ends of workflow runs."""
        if not self._performance.started:
            return
        control = cast("StoryDriver", self._driver).workflows()

        def told() -> bool:
            said = {
                (event.run, event.detail.get("status"))
                for event in self._driver.log()
                if event.kind is EventKind.CHANGED
            }
            endings = ((run, control.outcome(run)) for run in self._performance.started)
            return all(
                ending is None or ending.status not in WORKFLOW_FINAL or (run, ending.status) in said
                for run, ending in endings
            )

        self._pace.wait_for(told, until=self._pace.elapsed() + _NEWS)

    def _last_record(self) -> Record:
        """Return what is known in the end; what the beat has sent meanwhile ends first."""
        record = self._record()
        for _ in range(_LAST_LOOKS):
            sent = [run for name in record.entries for run in runs_of(name, record)]
            if all(record.endings[run].status in FINAL_STATUSES for run in sent):
                break
            self._settle(_PATIENCE, self._scenario.mark)
            record = self._record()
        return record

    def _record(self) -> Record:
        made = self._performance
        control = cast("StoryDriver", self._driver).workflows() if made.started else None
        record = Record(
            log=EventLog(iter(self._driver.log())),
            start=self._pace.start,
            end=self._pace.log_time(),
            runs=dict(made.runs),
            accepted=tuple(made.launched),
            endings={run: self._driver.outcome(run) for run in made.launched},
            launched=dict(made.launched),
            workflows=dict(made.workflows),
            started=dict(made.started),
            workflow_endings={run: control.outcome(run) for run in made.started} if control else {},
            keys={run: tuple(found) for run, found in self._keys.items()},
            commands=dict(made.commands),
            clients=made.tales(),
            faults=made.fault_tales(),
            entries=tuple(self._scenario.beat),
            config=self._scenario.config,
        )
        # In the order of the events: every look takes its time, and one seed gives one story.
        sent = dict.fromkeys(run for name in record.entries for run in runs_of(name, record))
        endings = dict(record.endings) | {run: self._driver.outcome(run) for run in sent}
        return replace(record, endings=endings, looked=self._pace.log_time())

    def _verdict(self, record: Record, mismatches: tuple[Mismatch, ...]) -> Verdict:
        captured = {name: runs_of(name, record) for name in (*record.entries, *record.runs)}
        return Verdict(
            log=record.log,
            start=record.start,
            end=record.end,
            seed=self._seed,
            digest=getattr(self._driver, "digest", ""),
            runs=captured,
            outcomes={
                name: tuple(cast("Outcome", record.endings[run]) for run in runs)
                for name, runs in captured.items()
            },
            workflows=record.workflows,
            workflow_outcomes={
                name: tuple(cast("WorkflowOutcome | None", record.workflow_endings[run]) for run in runs)
                for name, runs in record.workflows.items()
            },
            commands=record.commands,
            clients=record.clients,
            faults=record.faults,
            workers=_spans(record.log),
            sometimes=check_sometimes(self._scenario.expect, record),
            mismatches=mismatches,
        )

    def _settle(self, timeout: float, mark: Mark) -> Mismatch | None:
        try:
            self._driver.settle(timeout=timeout)
        except HarnessTimeoutError as error:
            return Mismatch(
                mark=mark,
                expected=ONE_FINAL_STATE,
                got=str(error),
                at=self._pace.elapsed(),
                invariant=ONE_FINAL_STATE,
            )
        return None


def _spans(log: EventLog) -> tuple[WorkerSpan, ...]:
    """Return the lives of all workers that the log tells of, in the order of their beginnings."""
    alive: dict[str, WorkerSpan] = {}
    found: list[WorkerSpan] = []
    for event in log:
        if event.kind not in (EventKind.WORKER_UP, EventKind.WORKER_GONE):
            continue
        before = alive.pop(event.worker, None)
        if before is not None:
            found.append(replace(before, ends=event.at))
        if event.kind is EventKind.WORKER_UP:
            alive[event.worker] = WorkerSpan(
                name=event.worker,
                slots=int(event.detail.get("slots") or 1),
                begins=event.at,
                queues=tuple(event.detail.get("queues") or ()),
            )
    return tuple(sorted([*found, *alive.values()], key=lambda span: (span.begins, span.name)))
