"""Workflow runs in a simulation: executed by its workers, swept by them, in its time and by its chance.

The runs are in a store that all simulated processes share. Each reading and writing takes a round trip, in
which others may come in between, and happens then as a whole, as in a Redis. It is on the Redis that is the
broker: what is in the way to that is in the way to the runs.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import redis

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
from taskservice.backends.probing import connect_redis
from taskservice.backends.storage import SECONDS
from taskservice.errors import BackendUnavailableError, TaskServiceError
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow.model import Deadlines
from taskservice.workflow.runner import WorkflowRunner
from taskservice.workflow.runtime import WorkflowRuntime, lend_runtime
from taskservice.workflow.sweeper import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from celery import Celery

    from pytest_taskservice.drivers.base import Stage, WorkflowOutcome
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
    store = _Store(world, partial(_tell, world, workflows))
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
    return _Control(
        workflows,
        runtime,
        send=partial(send, app),
        send_again=partial(send_once_more, app),
        new_id=partial(_new_id, simulation),
    )


class _Control(DirectControl):
    """Looks at runs as the harness does: nothing that a story breaks is in its way."""

    def outcome(self, run_id: str) -> WorkflowOutcome | None:
        with self._store.watched():
            return super().outcome(run_id)

    def stored_keys(self, run_id: str) -> int:
        with self._store.watched():
            return super().stored_keys(run_id)

    @property
    def _store(self) -> _Store:
        return cast("_Store", self._runtime.store)


class _Store(ToldStore):
    """Takes a round trip for each exchange, but for what a simulated process does beside its body."""

    def __init__(self, world: CeleryWorld, listener: Callable[[WorkflowRun, WorkflowEvent], object]) -> None:
        super().__init__(listener)
        self._simulation = world.simulation
        self._world = world
        self._client: redis.Redis | None = None
        self.hurried = False
        self.watching = False
        """Whether the test's own thread looks as the harness does, which no fault hinders."""

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

    def emit(
        self, run_id: str, token: int, events: Sequence[tuple[tuple[int, int], str, Any]], *, now: float
    ) -> None:
        self._check_answers()
        super().emit(run_id, token, events, now=now)

    def events(self, run_id: str, *, after: int = 0, limit: int = 500) -> EventPage:
        self._travel()
        return super().events(run_id, after=after, limit=limit)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the test's own thread look in the block as the harness does."""
        before, self.watching = self.watching, True
        try:
            yield
        finally:
            self.watching = before

    def _travel(self) -> None:
        simulation = self._simulation
        if self.hurried:
            self._check_answers()
        elif not simulation.closed:
            simulation.spend(simulation.random.between("workflows", ROUND_TRIP))
            self._get_through()

    def _get_through(self) -> None:
        """Reach the server as the runtime's own store does, with its patience and its errors."""
        server = self._server()
        if server is None:
            return
        if self._client is None:
            host, port = server
            url = f"redis://{host}:{port}" if port else f"unix://{host}"
            self._client = connect_redis(url, seconds=SECONDS)
        try:
            self._client.ping()
        except redis.RedisError as error:
            raise BackendUnavailableError("redis", str(error)) from error

    def _check_answers(self) -> None:
        # Whoever emits, or renews a lease, holds a lock of the run's: nobody may come in between.
        server = self._server()
        if server is not None and not self._world.redis.answers(server):
            raise BackendUnavailableError("redis", "it does not answer")

    def _server(self) -> tuple[str, int] | None:
        """Return the server that the runs are on, if anything is in the way to it."""
        world = self._world
        if self._simulation.closed or not world.redis.obstructed:
            return None
        if self.watching and current_fiber() is None:
            return None
        return next(iter(sorted(world.redis_brokers())), None)


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
