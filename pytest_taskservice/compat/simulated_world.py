"""The ``celery-sim`` world of Celery's own fixtures: every test has a simulation, with its own workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pytest_taskservice.compat.forked import Forked, install_forks
from pytest_taskservice.drivers.app_patch import AppPatch
from pytest_taskservice.options import DEFAULT_START
from pytest_taskservice.simulator.celery.world import CeleryWorld
from pytest_taskservice.simulator.core.simulation import Budget
from pytest_taskservice.simulator.substitutes import Patches
from pytest_taskservice.simulator.wallclock import travelled_to

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.compat.base import CompatWorker, WorkerRequest
    from pytest_taskservice.session import HarnessSession
    from pytest_taskservice.simulator.celery.worker import SimulatedWorker

__all__ = ["SimulatedWorld"]

# Options that say where and how a real process runs.
_OF_PROCESSES = ("logfile", "pidfile", "statedb", "autoscale", "pool_cls", "without_gossip", "without_mingle",
                 "without_heartbeat")  # fmt: skip


_PREFORK = "prefork"
_AGE = timedelta(minutes=1)


class SimulatedCompatWorker:
    """One worker as its fixture knows it: in each test another one, with the same app and options."""

    # Its name makes no test of it where a test module imports it.
    __test__ = False

    def __init__(self, app: Celery, request: WorkerRequest) -> None:
        self.app = app
        self.hostname = request.hostname
        self.request = request
        self.current: SimulatedWorker | None = None
        self.forked = Forked() if request.pool == _PREFORK else None
        """What its children know, if it has any."""
        self.seen = False
        """Whether an earlier test had it already."""

    def __getattr__(self, name: str) -> Any:
        # Whatever an embedded worker has, the simulated one has: it is Celery's own WorkController.
        if name.startswith("__") or self.current is None:
            raise AttributeError(name)
        return getattr(self.current, name)

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Have the worker know the tasks that the app has by now."""
        if self.forked is not None:
            # The pool is a new one.
            self.forked = Forked()
        if self.current is None:
            return
        self.current.reload(modules, reload, reloader)
        if self.forked is not None:
            self.forked.begin(self.current.process, ())

    def ensure_started(self) -> None:
        """Return at once: a message starts it."""


class SimulatedWorld:
    """Apps and workers in virtual time. Those of session fixtures are opened anew in each test."""

    name = "celery-sim"

    def __init__(self, harness: HarnessSession) -> None:
        self._options = harness.options
        self._patches: dict[Celery, ExitStack | None] = {}
        self._workers: list[SimulatedCompatWorker] = []
        self._world: CeleryWorld | None = None
        self._stack = ExitStack()
        self._simulations = 0

    @contextmanager
    def open(self, app: Celery) -> Iterator[None]:
        """Point ``app`` at the simulation of each test, as long as the context is open."""
        self._patches[app] = self._patch(app) if self._world is not None else None
        try:
            yield
        finally:
            patch = self._patches.pop(app)
            if patch is not None:
                patch.close()

    def start_worker(self, app: Celery, request: WorkerRequest) -> SimulatedCompatWorker:
        """Return a worker that is started in this test's simulation, and in those of further tests."""
        worker = SimulatedCompatWorker(app, request)
        self._workers.append(worker)
        if self._world is not None:
            self._begin(worker, self._world)
        return worker

    def stop_worker(self, worker: CompatWorker) -> None:
        """Let running tasks end, and end the worker."""
        assert isinstance(worker, SimulatedCompatWorker)
        self._workers.remove(worker)
        current, world = worker.current, self._world
        if current is None or world is None or not current.process.alive:
            return
        jobs = current.simulated_pool.jobs
        timeout = worker.request.shutdown_timeout
        if not world.simulation.wait(lambda: not jobs, timeout=timeout, what="running tasks to end"):
            raise RuntimeError(
                "the worker failed to end its tasks within the allocated timeout; consider raising "
                f"shutdown_timeout ({timeout:g} s) if your tasks take longer"
            )
        world.stop(current)

    def lasting(self) -> bool:
        """Return whether an app or a worker is open."""
        return bool(self._patches or self._workers)

    def begin_test(self, name: str, *, late: bool) -> None:
        """Open a simulation for the test; time does not leap for what has read it before."""
        self.end_test()
        options = self._options
        found = datetime.now(UTC) if late and options.start == DEFAULT_START else options.start
        start = travelled_to() or found
        # What a test leaves in the process under a name of its own must not be found by the next one.
        world = CeleryWorld(seed=options.seed, place=name, start=start, budget=Budget(events=options.events))
        self._stack.enter_context(world)
        patches = Patches()
        self._stack.callback(patches.undo)
        install_forks(patches)
        self._world = world
        # Suites that know a real worker do not expect a test to begin on the stroke of a second.
        world.simulation.spend(world.simulation.random.between("boot", world.latency.boot))
        self._simulations += 1
        world.before_send = self._before_send
        for app in self._patches:
            self._patches[app] = self._patch(app)

    def end_test(self) -> None:
        """Close it."""
        if self._world is None:
            return
        for app, patch in self._patches.items():
            if patch is not None:
                patch.close()
            self._patches[app] = None
        for worker in self._workers:
            worker.current = None
        self._world = None
        self._stack.close()

    def report(self) -> dict[str, str]:
        """Return what was left to be done."""
        waiting = self._world.simulation.waiting_for() if self._world is not None else ()
        return {"unfinished": "\n".join(waiting)} if waiting else {}

    def describe(self) -> str:
        """Return how many simulations there were."""
        return f"{self._simulations} simulations, seed {self._options.seed}"

    def close(self) -> None:
        """Close what is open."""
        self.end_test()

    def _patch(self, app: Celery) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(AppPatch(app, {}).applied(as_current=False))
        return stack

    def _before_send(self) -> None:
        world = self._world
        assert world is not None
        for worker in self._workers:
            if worker.current is None:
                self._begin(worker, world)

    def _begin(self, worker: SimulatedCompatWorker, world: CeleryWorld) -> None:
        request = worker.request
        options = {name: value for name, value in request.options.items() if name not in _OF_PROCESSES}
        before = Forked.now()
        # First of all: starting it sends messages too.
        worker.current = made = world.new_worker(
            worker.app, hostname=request.hostname, concurrency=request.concurrency or 1, **options
        )
        world.wait_ready(made)
        if worker.forked is not None:
            worker.forked.begin(made.process, before)
        if worker.seen:
            # Its fixture has had it for some tests.
            aged: Any = made
            aged.startup_time -= _AGE
        worker.seen = True
