"""The ``celery-sim`` world: the user's app on Celery's own worker code, here and in virtual time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_taskservice.clock import Clock
from pytest_taskservice.drivers import celery_app
from pytest_taskservice.drivers.app_patch import AppPatch, finalize, simulation_changes
from pytest_taskservice.drivers.base import Capability, CapabilityError, Outcome, TaskCall
from pytest_taskservice.drivers.canvases import send_canvas
from pytest_taskservice.drivers.eagerness import Eagerness
from pytest_taskservice.drivers.embedded import embedded_by, worker_options
from pytest_taskservice.drivers.exits import contained_exits
from pytest_taskservice.drivers.own_controllers import controllers_by
from pytest_taskservice.drivers.sim_faults import SimulatedFaults
from pytest_taskservice.drivers.staging import rebound, stage_settings, start_of
from pytest_taskservice.errors import HarnessError, HarnessTimeoutError, SimulationError
from pytest_taskservice.simulator.celery.results import stored_beside
from pytest_taskservice.simulator.celery.shortcuts import kept_shortcuts
from pytest_taskservice.simulator.celery.world import DEFAULT_START, CeleryWorld
from pytest_taskservice.simulator.core.simulation import Budget
from pytest_taskservice.simulator.freezing import coupled
from pytest_taskservice.simulator.story import Story
from pytest_taskservice.simulator.substitutes import real_monotonic, real_sleep
from pytest_taskservice.simulator.wallclock import travelled_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pytest_taskservice.drivers.base import CanvasRuns, FaultControl, Stage, WorkflowControl
    from pytest_taskservice.history import EventLog
    from pytest_taskservice.simulator.celery.worker import SimulatedWorker
    from taskservice import BlockingTaskService
    from taskservice.backends.base import TaskBackend

__all__ = ["CelerySimDriver", "SimulatorOptions"]

_START_WITHIN = 0.5
_TICK = 0.0005
_CANNOT = {
    Capability.PROCESSES: "simulated workers live in the test's own process: nothing real can be killed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatorOptions:
    """How a simulated world is made.

    ``events`` bounds what one wait may bring; ``patience``, in real seconds, how long a task body may block.
    ``keeps`` has what makes simulations quick stay from one test to the next, until ``rest()``.
    """

    start: datetime = DEFAULT_START
    concurrency: int = 2
    events: int = 1_000_000
    patience: float = 30.0
    keeps: bool = False


@dataclass(kw_only=True)
class _Test:
    """What one test has open."""

    world: CeleryWorld
    app: Celery
    settings: Mapping[str, Any]
    loops: bool
    stack: ExitStack
    eagerness: Eagerness | None
    made: set[Any]
    """Workers of its own that have not been started yet."""
    labels: dict[str, str] = field(default_factory=dict)
    worker: SimulatedWorker | None = None
    own_workers: bool = False
    workflows: WorkflowControl | None = None
    staged: list[SimulatedWorker] = field(default_factory=list)


class CelerySimDriver:
    """A new simulation for each test; a worker starts with the first message."""

    name = "celery-sim"
    capabilities = frozenset(Capability) - _CANNOT.keys()

    def __init__(self, *, options: SimulatorOptions) -> None:
        self.refused: list[CapabilityError] = []
        self.seed = 0
        """The seed of the next test."""
        self.place = ""
        """Where the next test's ids are drawn; a story has none, and the same ids wherever it is played."""
        self.allow_sockets: bool | Sequence[str] = False
        """Which real connections the next test may make: all, or those to ``host`` or ``host:port``."""
        self.calm_after: int | None = None
        """After so many draws the next test's world is without chance; for shrinking a failure."""
        self._options = options
        self._stage: Stage | None = None
        self._test: _Test | None = None
        self._last = Story(seed=0, start=options.start.timestamp())
        self._keeping: ExitStack | None = None

    def cannot(self, capability: Capability) -> str | None:
        """Return why a simulation cannot show ``capability``."""
        return _CANNOT.get(capability)

    def set_stage(self, stage: Stage) -> None:
        """Say before ``begin`` what the next story needs."""
        self._stage = stage

    def begin(
        self,
        app: Celery | None,
        settings: Mapping[str, Any],
        *,
        real_time: bool = False,
        loops: bool = False,
    ) -> None:
        """Open a simulation and point ``app`` at it."""
        assert app is not None, "the celery-sim world needs an app"
        if real_time:
            raise HarnessError("a simulation has no real time: leave clock='real' to the anyio world")
        self.refused = []
        stack = ExitStack()
        options, stage = self._options, self._stage
        self._keep()
        eagerness = Eagerness(app) if stage is None else None
        staged = {} if stage is None else stage_settings(app, stage, refuse=self._refuse)
        world = CeleryWorld(
            seed=self.seed,
            place=self.place if stage is None else "",
            start=start_of(stage) or travelled_to() or options.start,
            budget=Budget(events=options.events),
            allow_sockets=self.allow_sockets,
            patience=options.patience,
        )
        if self.calm_after is not None:
            world.simulation.random.calm_after = self.calm_after
        world.tells_workers = stage is not None
        with stack:
            changes = simulation_changes(app) | dict(settings) | staged
            # Tasks that are bound under a story's settings would keep them.
            finalize(app)
            before = {name: app.conf.get(name) for name in staged}
            stack.enter_context(AppPatch(app, changes).applied())
            stack.enter_context(rebound(app, staged, before))
            # First, for it reads the functions that are replaced next.
            stack.enter_context(coupled(Clock(world.simulation)))
            stack.enter_context(world)
            stack.enter_context(contained_exits())
            stack.enter_context(embedded_by(self._serving))
            made: set[Any] = set()
            stack.enter_context(controllers_by(self._stand_in, made.add))
            if loops:
                world.open_loops()
            world.app = app
            world.before_send, world.route = self._before_send, self._route
            self._test = _Test(
                world=world,
                app=app,
                settings=settings,
                loops=loops,
                stack=stack.pop_all(),
                eagerness=eagerness,
                made=made,
            )
        if stage is not None:
            try:
                self._set_up(stage)
            except BaseException:
                self.reset()
                raise

    def workflows(self) -> WorkflowControl:
        """Return control over workflow runs on the simulated workers."""
        from pytest_taskservice.drivers.workflow_sim import open_simulated

        test = self._current()
        if test.workflows is None:
            test.workflows = open_simulated(test.world, test.app, self._stage, held=test.stack)
        return test.workflows

    def clock(self) -> Clock:
        """Return the simulation's clock."""
        return Clock(self.world.simulation)

    @property
    def world(self) -> CeleryWorld:
        """The simulation of the current test."""
        return self._current().world

    @property
    def app(self) -> Celery:
        """The app of the current test."""
        return self._current().app

    @property
    def story(self) -> Story:
        """All that has happened in the current test, or in the last one."""
        return self._test.world.record.story() if self._test else self._last

    @property
    def digest(self) -> str:
        """What one seed always gives again: of the current test, or of the last one."""
        return self.story.digest

    def has_loops(self) -> bool:
        """Return whether event loops run in this simulation."""
        return self._current().loops

    def in_use(self) -> bool:
        """Return whether anything has happened in this simulation."""
        world = self.world
        return bool(world.workers or world.beats or world.record.story().notes)

    @contextmanager
    def aside(self) -> Iterator[tuple[Celery, Mapping[str, Any]]]:
        """Close the test's simulation to make room for others over the same app; open it anew on leaving."""
        test, seed, calm_after = self._current(), self.seed, self.calm_after
        self.reset()
        try:
            yield test.app, test.settings
        finally:
            self.reset()
            self.seed, self.calm_after = seed, calm_after
            self.begin(test.app, test.settings)

    def task_backend(self) -> TaskBackend:
        """Return a backend over the simulated app."""
        from taskservice.backends.celery import CeleryBackend

        return CeleryBackend(self._current().app)

    def blocking_service(self) -> BlockingTaskService:
        """Return the same service for a test without an event loop."""
        from taskservice import BlockingTaskService

        self.world.open_loops()
        return BlockingTaskService(self.task_backend())

    def launch(self, call: TaskCall) -> str:
        """Send one message."""
        return str(celery_app.send(self._current().app, call).id)

    def launch_canvas(self, kind: str, members: tuple[TaskCall, ...], body: TaskCall | None) -> CanvasRuns:
        """Send a canvas of Celery's own."""
        return send_canvas(self._current().app, kind, members, body)

    def faults(self) -> FaultControl:
        """Return control over the simulation's faults."""
        return SimulatedFaults(self.world, self._refuse)

    def at_once(self, acts: Sequence[Callable[[], None]]) -> None:
        """Do all of ``acts`` side by side, begun in an order that the seed draws."""
        simulation = self.world.simulation
        left = list(acts)
        done: list[None] = []

        def perform(act: Callable[[], None]) -> None:
            act()
            done.append(None)

        # Before the first of them, and none of their business.
        self._before_send()
        while left:
            act = simulation.random.choice("together", left)
            left.remove(act)
            simulation.after(0.0, perform, act)
        simulation.wait(lambda: len(done) == len(acts), timeout=None, what="all commands at once")

    def outcome(self, run_id: str) -> Outcome:
        """Return what the result backend says; no fault keeps the harness from asking."""
        app, world = self._current().app, self.world
        if not world.redis.obstructed or (stored := stored_beside(world.redis, app, run_id)) is None:
            return celery_app.outcome_of(app, run_id)
        return celery_app.outcome_from(app, stored)

    def revoke(self, run_id: str) -> None:
        """Revoke by remote control, and let the workers hear it."""
        test = self._current()
        test.app.control.revoke(run_id, reply=True, timeout=2.0, limit=max(1, len(test.world.workers)))

    def settle(self, *, timeout: float) -> None:
        """Let everything happen that is due, within ``timeout`` seconds of virtual time."""
        simulation = self.world.simulation
        if not simulation.wait(simulation.idle, timeout=timeout, what="all work to be done"):
            waiting = "; ".join(simulation.waiting_for())
            raise HarnessTimeoutError(f"not settled within {timeout:g} s of virtual time: {waiting}")

    def log(self) -> EventLog:
        """Return what has happened in this simulation."""
        return self.world.record.log()

    def start_worker(self, app: Celery | None = None, **options: Any) -> SimulatedWorker:
        """Start one more worker, of the test's app or another; from then on none is started by itself."""
        test = self._current()
        test.own_workers = True
        options.setdefault("concurrency", self._options.concurrency)
        return test.world.start_worker(app or test.app, **options)

    @contextmanager
    def _serving(self, app: Celery, **asked: Any) -> Iterator[SimulatedWorker]:
        """Stand for what Celery's ``start_worker`` starts."""
        test = self._current()
        with ExitStack() as stack:
            if app is not test.app:
                # A fixture or a function of the test has made it, for this worker.
                finalize(app)
                stack.enter_context(AppPatch(app, simulation_changes(app)).applied())
            worker = self.start_worker(app, **worker_options(asked))
            try:
                yield worker
            finally:
                if worker.process.alive:
                    test.world.stop(worker)

    def _stand_in(self, controller: Any, over: threading.Event) -> None:
        """Run a worker in the place of one that a thread of the test's has made, until that is to stop."""
        test = self._current()
        simulation = test.world.simulation
        if test.world.threads.inside():
            asked = f"{type(controller).__name__}.start() in the test's own thread"
            raise self._refuse(CapabilityError(self.name, asked, "it would hold the test until it stops"))
        made: list[SimulatedWorker] = []

        def begin() -> None:
            test.own_workers = True
            # Another app than the test's keeps its settings: it may have sent something already.
            finalize(controller.app)
            made.append(test.world.new_worker(controller.app, concurrency=self._options.concurrency))

        simulation.after(0.0, begin)
        test.made.discard(controller)
        simulation.wait(lambda: bool(made), timeout=None, what="a worker to start")
        over.wait()
        try:
            if not simulation.closed:
                simulation.after(0.0, made[0].shut_down)
                simulation.wait(lambda: not made[0].process.alive, timeout=None, what="a worker to stop")
        except SimulationError:
            # The test was over before the worker was.
            if not simulation.closed:
                raise

    def reset(self) -> None:
        """Close the simulation and give the app back."""
        if self._test is not None:
            self._last = self._test.world.record.story()
            test, self._test = self._test, None
            test.stack.close()
        self._stage = None

    def describe(self) -> str:
        """Return what a simulation cannot show."""
        return f"cannot show {', '.join(sorted(_CANNOT))}, processor time, real sockets"

    def report(self) -> dict[str, str]:
        """Return what was left to be done when the test ended."""
        if self._test is None:
            return {}
        waiting = self._test.world.simulation.waiting_for()
        if not waiting:
            return {}
        hint = self._test.eagerness and self._test.eagerness.hint
        return {"unfinished": "\n".join(waiting)} | ({"hint": hint} if hint else {})

    def close(self) -> None:
        """Close the simulation, if one is open."""
        self.reset()
        self.rest()

    def rest(self) -> None:
        """Keep nothing for the next test, which may be long in coming or another world's."""
        if self._keeping is not None:
            self._keeping.close()
            self._keeping = None

    def _keep(self) -> None:
        if self._options.keeps and self._keeping is None:
            self._keeping = ExitStack()
            self._keeping.enter_context(kept_shortcuts())

    def _refuse(self, error: CapabilityError) -> CapabilityError:
        self.refused.append(error)
        return error

    def _set_up(self, stage: Stage) -> None:
        """Have the workers and the beat of a story, ready before its first step."""
        test = self._current()
        if (wanted := stage.workers) is not None:
            test.own_workers = True
            options = {"queues": list(wanted.queues)} if wanted.queues else {}
            test.staged = [
                test.world.new_worker(
                    test.app, hostname=f"worker{number}@sim", concurrency=wanted.concurrency, **options
                )
                for number in range(1, wanted.count + 1)
            ]
            for worker in test.staged:
                test.world.wait_ready(worker)
        if stage.beat:
            self._before_send()
            test.world.start_beat(test.app)

    def _current(self) -> _Test:
        assert self._test is not None, "no test has begun"
        return self._test

    def _before_send(self) -> None:
        """Have a worker before the first message is sent, unless the test starts its own."""
        test = self._current()
        if test.eagerness is not None:
            test.eagerness.look()
        if test.made and test.world.threads.inside():
            self._let_start(test)
        if test.worker is not None or test.own_workers:
            return
        # First of all: starting it sends messages too.
        test.own_workers = True
        world = test.world
        if world.threads.inside():
            test.worker = world.start_worker(test.app, concurrency=self._options.concurrency)
            return
        # A thread of the test's: workers live on the simulation's own.
        world.simulation.after(0.0, self._start_worker, test)
        world.simulation.wait(lambda: test.worker is not None, timeout=None, what="a worker to start")

    def _let_start(self, test: _Test) -> None:
        """Give the threads of the test's own workers the real time that they need to start them."""
        end = real_monotonic() + _START_WITHIN
        while test.made and real_monotonic() < end:
            real_sleep(_TICK)
        # Who makes one and does not start it waits once.
        test.made.clear()

    def _start_worker(self, test: _Test) -> None:
        made = test.world.new_worker(test.app, concurrency=self._options.concurrency)
        test.world.simulation.wait(lambda: made.ready, timeout=None, what="a worker to start")
        test.worker = made

    def _route(self, queues: list[str], headers: Mapping[str, Any]) -> None:
        """Have it listen where a message goes."""
        test = self._current()
        for worker in (test.worker, *test.staged):
            if worker is not None and not worker.bound:
                test.world.teach(worker, queues, headers)
