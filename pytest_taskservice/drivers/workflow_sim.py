"""Workflow runs in a simulation: executed by its workers, swept by them, in its time and by its chance.

The runs are in a store that all simulated processes share. Each reading and writing takes a round trip, in
which others may come in between, and happens then as a whole, as in a Redis.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.workflow_direct import DirectControl
from pytest_taskservice.drivers.workflow_memory import ToldStore
from pytest_taskservice.drivers.workflow_story import StoryWorkflows, told
from pytest_taskservice.drivers.workflow_sweeps import Sweeps
from pytest_taskservice.drivers.workflow_tasks import known_tasks, send, send_once_more
from pytest_taskservice.drivers.workflow_upkeep import TimedFlusher, TimedKeeper
from pytest_taskservice.simulator.celery.processes import ChildProcess
from pytest_taskservice.simulator.core.agenda import Weight
from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.redis import ROUND_TRIP
from pytest_taskservice.simulator.substitutes import Patches
from taskservice.errors import TaskServiceError
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow.model import Deadlines
from taskservice.workflow.runner import WorkflowRunner
from taskservice.workflow.runtime import WorkflowRuntime, lend_runtime
from taskservice.workflow.sweeper import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from pytest_taskservice.drivers.base import Stage
    from pytest_taskservice.simulator.celery.pool import Job
    from pytest_taskservice.simulator.celery.worker import SimulatedWorker
    from pytest_taskservice.simulator.celery.world import CeleryWorld
    from pytest_taskservice.simulator.core.simulation import Simulation
    from taskservice.workflow.model import JournalEntry, WorkflowEvent, WorkflowRun
    from taskservice.workflow.store.base import EventPage
    from taskservice.workflow.transitions import Change

__all__ = ["open_simulated"]

logger = logging.getLogger(__name__)


def open_simulated(world: CeleryWorld, app: Celery, stage: Stage | None, *, held: ExitStack) -> DirectControl:
    """Have the workers of ``world`` execute workflow runs until ``held`` is left."""
    simulation = world.simulation
    workflows = StoryWorkflows(stage)
    store = _Store(simulation, partial(_tell, world, workflows))
    held.callback(store.close)

    def later(seconds: float, action: Callable[[], object]) -> Callable[[], object]:
        return partial(simulation.cancel, simulation.after(seconds, action, weight=Weight.UPKEEP))

    runner = WorkflowRunner(
        store,
        workflows.registry,
        clock=simulation.now,
        keeper=TimedKeeper(lambda seconds, renew: later(seconds, partial(_at_once, store, renew)), _living),
        flusher=TimedFlusher(later),
    )
    runtime = WorkflowRuntime(
        store,
        registry=workflows.registry,
        deadlines=Deadlines(**workflows.limits),
        clock=simulation.now,
        runner=runner,
    )
    held.callback(runtime.close)
    held.enter_context(known_tasks(app, payload_limit=PAYLOAD_LIMIT))
    held.enter_context(lend_runtime(app, runtime))
    held.enter_context(_seeded(simulation))
    store.changed = _planned_sweeps(world, app, store).plan
    return DirectControl(
        workflows,
        runtime,
        send=partial(send, app),
        send_again=partial(send_once_more, app),
        new_id=partial(_new_id, simulation),
    )


class _Store(ToldStore):
    """Takes a round trip for each exchange, but for what a simulated process does beside its body."""

    def __init__(
        self, simulation: Simulation, listener: Callable[[WorkflowRun, WorkflowEvent], object]
    ) -> None:
        super().__init__(listener)
        self._simulation = simulation
        self.hurried = False

    def create(self, run: WorkflowRun, event: tuple[str, Any]) -> bool:
        self._travel()
        return super().create(run, event)

    def load(self, run_id: str) -> WorkflowRun | None:
        self._travel()
        return super().load(run_id)

    def journal(self, run_id: str) -> list[JournalEntry]:
        self._travel()
        return super().journal(run_id)

    def write(
        self, before: WorkflowRun, change: Change, *, now: float, entry: JournalEntry | None = None
    ) -> bool:
        self._travel()
        return super().write(before, change, now=now, entry=entry)

    def events(self, run_id: str, *, after: int = 0, limit: int = 500) -> EventPage:
        self._travel()
        return super().events(run_id, after=after, limit=limit)

    def _travel(self) -> None:
        simulation = self._simulation
        # Whoever emits, or renews a lease, holds a lock of the run's: nobody may come in between.
        if not self.hurried and not simulation.closed:
            simulation.spend(simulation.random.between("workflows", ROUND_TRIP))


def _planned_sweeps(world: CeleryWorld, app: Celery, store: _Store) -> Sweeps:
    simulation = world.simulation

    def later(seconds: float, action: Callable[[], object]) -> Callable[[], object]:
        # No work of its own: a run that waits for its user keeps nobody busy.
        return partial(simulation.cancel, simulation.after(seconds, action, weight=Weight.RECURRING))

    sweeps = Sweeps(
        store.next_due,
        now=simulation.now,
        later=later,
        sweep=lambda: _sweep(world, app, store, sweeps.plan),
    )
    return sweeps


def _sweep(world: CeleryWorld, app: Celery, store: _Store, plan: Callable[[], object]) -> None:
    worker = next((each for each in world.living() if _at_work(each)), None)
    if worker is not None:
        fiber = current_fiber()
        assert fiber is not None
        # What it sends is a worker's; see SweeperThread.
        fiber.process = ChildProcess(worker.process, pid=0)
        try:
            for run in sweep(store, now=world.simulation.now()):
                send_once_more(app, run)
        except TaskServiceError as error:
            # The broker is away; whoever is still due is swept again.
            logger.warning("workflow runs not swept: %s", error)
    plan()


def _tell(world: CeleryWorld, workflows: StoryWorkflows, run: WorkflowRun, event: WorkflowEvent) -> None:
    fiber = current_fiber()
    worker = getattr(fiber and fiber.process, "name", "")
    for kind, detail in told(event):
        world.record.note(kind, run=run.id, task=workflows.label(run), worker=worker, detail=detail)


def _at_once(store: _Store, renew: Callable[[], object]) -> None:
    store.hurried = True
    try:
        renew()
    finally:
        store.hurried = False


def _living() -> Callable[[], bool]:
    """Return what says whether the process that asks is there and not stopped."""
    fiber = current_fiber()
    child: Any = None if fiber is None else fiber.process
    job: Job | None = getattr(child, "job", None)
    if job is None:
        return lambda: True
    return lambda: job in job.pool.jobs and child.parent.alive and child.held_up is None


def _at_work(worker: SimulatedWorker) -> bool:
    return worker.process.ready and worker.process.held_up is None


@contextmanager
def _seeded(simulation: Simulation) -> Iterator[None]:
    """Have questions bear ids that the seed draws."""
    patches = Patches()
    session = import_module("taskservice.workflow.session")
    patches.set(session, "token_hex", lambda size: _new_id(simulation)[: 2 * size])
    try:
        yield
    finally:
        patches.undo()


def _new_id(simulation: Simulation) -> str:
    return simulation.random.uuid4("taskservice.workflow").hex
