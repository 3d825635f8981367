"""The simulated worker: Celery's own ``WorkController`` and ``Consumer``, whose loop waits in a fiber."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any

from celery.worker.consumer import Consumer
from celery.worker.worker import WorkController
from kombu.asynchronous import set_event_loop
from kombu.asynchronous.timer import Entry, Timer, scheduled

from pytest_taskservice.simulator.celery.pool import Job, SimulatedPool
from pytest_taskservice.simulator.celery.processes import MainProcess
from pytest_taskservice.simulator.core.agenda import Weight
from pytest_taskservice.simulator.core.simulation import MONOTONIC_START

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.simulator.celery.world import CeleryWorld
    from pytest_taskservice.simulator.core.agenda import Due
    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["SimulatedTimer", "SimulatedWorker"]

_state: Any = import_module("celery.worker.state")
_trace: Any = import_module("celery.app.trace")
_Controller: Any = WorkController

# What a timer of these functions brings is work; all others are the worker's upkeep.
_WORK = frozenset({"apply_eta_task", "_limit_post_eta", "_schedule_bucket_request"})
_numbers = count()


class SimulatedEntry(Entry):
    """A timer's entry that takes its event along when it is cancelled."""

    __slots__ = ("due", "number", "simulation")

    def __init__(self, fun: Any, args: Any = None, kwargs: Any = None) -> None:
        super().__init__(fun, args, kwargs)
        self.due: Due | None = None
        self.simulation: Simulation | None = None
        self.number = next(_numbers)

    def cancel(self) -> None:
        """Never fire."""
        super().cancel()
        if self.simulation is not None:
            self.simulation.cancel(self.due)

    def __lt__(self, other: Any) -> bool:
        # Celery's own compares addresses, which no seed decides.
        return bool(self.number < other.number)


class SimulatedTimer(Timer):
    """A worker's timer: each entry is an event of the simulation."""

    Entry = SimulatedEntry
    process: MainProcess
    simulation: Simulation

    def _enter(self, eta: float, priority: int, entry: Any, push: Any = heapq.heappush) -> Any:
        push(self._queue, scheduled(eta, priority, entry))
        work = getattr(entry.fun, "__name__", "") in _WORK
        entry.simulation = self.simulation
        entry.due = self.simulation.after(
            # Rounded up by a microsecond: a timer is never early.
            eta - MONOTONIC_START - self.simulation.elapsed + 1e-6,
            self.process.post,
            self._fire,
            weight=Weight.WORK if work else Weight.UPKEEP,
        )
        return entry

    def _fire(self) -> None:
        now = self.simulation.monotonic()
        while self._queue and self._queue[0].eta <= now:
            entry = heapq.heappop(self._queue).entry
            if not entry.canceled:
                self.apply_entry(entry)


class _Hub:
    """Stands for kombu's hub, whose callbacks are a set: these keep their order."""

    poller = None

    def __init__(self) -> None:
        self.timer: Any = None
        self._process: MainProcess | None = None

    def serve(self, process: MainProcess) -> None:
        self._process = process

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        assert self._process is not None
        self._process.post(callback, *args)
        return callback

    def call_later(self, delay: float, callback: Any, *args: Any) -> Any:
        return self.timer.call_after(delay, callback, args)

    def call_repeatedly(self, delay: float, callback: Any, *args: Any) -> Any:
        return self.timer.call_repeatedly(delay, callback, args)

    def reset(self) -> None:
        """Forget nothing: what is posted to a process stays posted."""

    def close(self, *args: Any) -> None:
        """Do nothing, as above."""

    stop = remove = remove_reader = remove_writer = close


class _Strategies(dict[str, Any]):
    """How a consumer takes each task's messages, made when its first one arrives.

    An app of hundreds of tasks would else pay for all of them in each simulation; and a task that a test
    registers after its worker has started is known as well.
    """

    def __init__(self, consumer: Any) -> None:
        super().__init__()
        self._consumer = consumer

    def __missing__(self, name: str) -> Any:
        consumer = self._consumer
        app = consumer.app
        task = app.tasks.get(name)
        if task is None:
            raise KeyError(name)
        self[name] = strategy = task.start_strategy(app, consumer)
        task.__trace__ = _trace.build_tracer(name, task, app.loader, consumer.hostname, app=app)
        return strategy


class SimulatedConsumer(Consumer):
    """The real consumer; only its loop waits in a fiber."""

    def update_strategies(self) -> None:
        """Forget how tasks were taken: it is found again at the next message."""
        found: Any = self
        if isinstance(found.strategies, _Strategies):
            # Who takes messages has them in hand.
            found.strategies.clear()
        else:
            found.strategies = _Strategies(self)

    @staticmethod
    def loop(  # noqa: PLR0913, PLR0917 - Celery's signature
        obj: Any,
        connection: Any,
        consumer: Any,
        blueprint: Any,
        hub: Any,
        qos: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Do what ``asynloop`` does, without a poller."""
        handle = obj.create_task_handler()

        def received(message: Any) -> Any:
            headers = message.headers
            if "task" in headers:
                found = handle(message)
                obj.controller.world.at_received(obj.controller, headers)
                return found
            return handle(message)

        consumer.on_message = received
        obj.controller.register_with_event_loop(hub)
        obj.register_with_event_loop(hub)
        consumer.consume()
        obj.on_ready()
        process = obj.controller.process
        process.ready = True
        obj.controller.world.tell_up(obj.controller)
        if obj.controller.when_ready is not None:
            process.post(obj.controller.when_ready)
            obj.controller.when_ready = None

        def go_on() -> bool:
            if blueprint.state != 1 or not obj.connection:
                return False
            if _state.should_stop is not None or _state.should_terminate is not None:
                _state.maybe_shutdown()
            if qos.prev != qos.value:
                qos.update()
            return True

        try:
            process.serve(go_on)
        finally:
            process.ready = False


class SimulatedWorker(_Controller):  # type: ignore[misc] # the stubs know none of its attributes
    """One worker: its main process is a fiber, its pool's processes are others."""

    def __init__(
        self, world: CeleryWorld, app: Celery, *, hostname: str, concurrency: int, **options: Any
    ) -> None:
        simulation = world.simulation
        self.world = world
        self.when_ready: Callable[[], None] | None = None
        """Called once, as soon as it consumes."""
        self.successor: SimulatedWorker | None = None
        """Who took its place when it had ended."""
        self.queues_then: list[str] = []
        """The queues that it consumed when it was last asked to end."""
        self.given = {"hostname": hostname, "concurrency": concurrency, **options}
        """What a worker that takes its place is made of."""
        self.process = MainProcess(simulation, world.state, app, name=hostname)
        hub = _Hub()
        hub.serve(self.process)
        set_event_loop(hub)  # type: ignore[arg-type] # stands for one
        try:
            super().__init__(
                app=app,
                hostname=hostname,
                concurrency=concurrency,
                pool_cls=SimulatedPool,
                consumer_cls=SimulatedConsumer,
                use_eventloop=True,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                **options,
            )
        finally:
            set_event_loop(None)
        found: Any = self
        hub.timer = found.timer
        found.timer.simulation, found.timer.process = simulation, self.process
        found.pool.process, found.pool.world = self.process, world
        self.simulated_pool: SimulatedPool = found.pool
        self.known_queues: set[str] = set()
        """Queues that it has been told to listen to, or had from the start."""

    @property
    def bound(self) -> bool:
        """Say whether it was told which queues to consume, and so consumes no others."""
        return bool(self.given.get("queues"))

    @property
    def ready(self) -> bool:
        """Say whether it consumes."""
        return self.process.ready

    def begin(self) -> None:
        """Start it, in its own fiber."""
        self.process.begin(self.start)

    def crash(self) -> None:
        """End it as SIGKILL to all its processes would."""
        self.queues_then = self._queues()
        for job in list(self.simulated_pool.jobs):
            job.abandon()
        self.process.kill()
        timer: Any = self.timer
        for scheduled_entry in timer.queue:
            scheduled_entry.entry.cancel()

    def shut_down(self) -> None:
        """End it as SIGTERM would: what runs may end, nothing else is begun."""
        self.queues_then = self._queues()
        self.process.enter()
        _state.should_stop = 0
        self.process.post(_look)

    def disconnect(self, error: Exception) -> None:
        """Let its connection to the broker break."""
        consumer: Any = getattr(self, "consumer", None)
        if consumer is not None and consumer.connection is not None:
            self.process.post(_break, consumer, consumer.connection, error)

    def untold(self) -> list[Job]:
        """Return what has stored a result that the main process knows nothing of."""
        posted = [getattr(action, "__self__", None) for action in self.process.undone()]
        jobs = [*self.simulated_pool.jobs, *(job for job in posted if isinstance(job, Job))]
        return [job for job in jobs if job.returned is not None]

    def _queues(self) -> list[str]:
        consumer: Any = getattr(self, "consumer", None)
        tasks = getattr(consumer, "task_consumer", None)
        return [queue.name for queue in tasks.queues] if tasks else self.queues_then


def _break(consumer: Any, connection: Any, error: Exception) -> None:
    # It may have another one by now.
    if consumer.connection is connection:
        raise error


def _look() -> None:
    """Come to look whether to stop."""
