"""One simulated world of Celery: brokers, workers and beat on one clock, from opening to closing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from celery import signals
from kombu.serialization import prepare_accept_content
from kombu.transport.virtual import BrokerState

from pytest_taskservice.errors import SimulationError
from pytest_taskservice.history import EventKind
from pytest_taskservice.simulator.celery import transport
from pytest_taskservice.simulator.celery.accounts import Accounts, take_stock
from pytest_taskservice.simulator.celery.beat import SimulatedBeat
from pytest_taskservice.simulator.celery.broker import Broker, Latency, rules_for
from pytest_taskservice.simulator.celery.faults import Faults
from pytest_taskservice.simulator.celery.listener import install_limits, install_listener
from pytest_taskservice.simulator.celery.processes import ModuleState
from pytest_taskservice.simulator.celery.queue_lists import BrokerLists
from pytest_taskservice.simulator.celery.quick_listening import LISTENING_SHORTCUTS
from pytest_taskservice.simulator.celery.quick_making import MAKING_SHORTCUTS
from pytest_taskservice.simulator.celery.quick_plain import PLAIN_SHORTCUTS, install_json
from pytest_taskservice.simulator.celery.quick_sending import SENDING_SHORTCUTS
from pytest_taskservice.simulator.celery.quick_starting import STARTING_SHORTCUTS
from pytest_taskservice.simulator.celery.record import Record
from pytest_taskservice.simulator.celery.remote_control import RemoteControl
from pytest_taskservice.simulator.celery.seams import install_seams
from pytest_taskservice.simulator.celery.shortcuts import drop_shortcuts, install_shortcuts
from pytest_taskservice.simulator.celery.traps import ignore, no_time
from pytest_taskservice.simulator.celery.worker import SimulatedWorker
from pytest_taskservice.simulator.companions import Companions
from pytest_taskservice.simulator.core.fibers import current_fiber
from pytest_taskservice.simulator.core.simulation import Budget, Simulation
from pytest_taskservice.simulator.loops.fiber_loop import install_fiber_loops
from pytest_taskservice.simulator.substitutes import Patches, note_reading, replaced
from pytest_taskservice.simulator.threads import Threads
from pytest_taskservice.simulator.wallclock import wall_clock
from pytest_taskservice.simulator.watchdog import watched

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.simulator.celery.pool import Job
    from pytest_taskservice.simulator.celery.processes import MainProcess

__all__ = ["DEFAULT_START", "CeleryWorld"]

DEFAULT_START = datetime(2026, 1, 1, tzinfo=UTC)
_READY_WITHIN = 60.0
_SHORTCUTS = (
    *PLAIN_SHORTCUTS,
    *MAKING_SHORTCUTS,
    *SENDING_SHORTCUTS,
    *LISTENING_SHORTCUTS,
    *STARTING_SHORTCUTS,
)
_COLLECT_AT = 500_000
_OLDER = 10
_TOLD_SLEEPS = 10
_SLEEP = 1e-5


class CeleryWorld:
    """Opened by ``with``; one at a time in a process. ``exact`` worlds take none of :mod:`.shortcuts`.

    ``place`` is where ids are drawn: worlds of two places never have one in common.
    """

    def __init__(  # noqa: PLR0913 - each is one choice of a world
        self,
        *,
        seed: int = 0,
        place: str = "",
        start: datetime = DEFAULT_START,
        latency: Latency | None = None,
        budget: Budget | None = None,
        allow_sockets: bool | Sequence[str] = False,
        patience: float = 30.0,
        exact: bool = False,
    ) -> None:
        self.latency = latency or Latency()
        self.simulation = Simulation(
            seed=seed, place=place, start=start.timestamp(), on_move=ignore, budget=budget
        )
        self.simulation.explain = self._explain
        self.simulation.on_sleep = self._note_sleep
        self.record = Record(self.simulation)
        self.workers: list[SimulatedWorker] = []
        self._control = RemoteControl(self.workers)
        self.beats: list[SimulatedBeat] = []
        self.faults = Faults(self)
        self.at_received: Callable[[SimulatedWorker, Mapping[str, Any]], None] = ignore
        """Called with its headers when a worker has a task's message; a fault's hook."""
        self.at_body: Callable[[Job], None] = ignore
        """Called when a body is about to run; a fault's hook."""
        self.at_end: Callable[[Job], None] = ignore
        """Called when a body's result is stored and nobody has been told; a fault's hook."""
        self.slowness: Callable[[Job], float] = no_time
        """Returns seconds that a body takes on top; a fault's hook."""
        self.before_send: Callable[[], None] | None = None
        """Called before a message of a test's own is routed."""
        self.route: Callable[[list[str], Mapping[str, Any]], None] | None = None
        """Called with its queues and headers before it leaves."""
        self.tells_workers = False
        """Whether the record says when workers begin to consume and when they are gone."""
        self.app: Celery | None = None
        """Whose broker faults concern before anybody has connected to it."""
        self._allow_sockets = allow_sockets
        self._patience = patience
        self._exact = exact
        self._brokers: dict[Any, Broker] = {}
        self._redis_brokers: set[tuple[str, int]] = set()
        self._exchanges: dict[Any, BrokerState] = {}
        self._accepted: dict[Any, Any] = {}
        self._numbers: dict[str, int] = {}
        self._stage: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave everything as it was before; may be called twice."""
        self._stack.close()

    # What tests do.

    def open_loops(self) -> bool:
        """Put event loops that are made, or run, from now on into this world's time; False if they are."""
        if self._stage is not None:
            return False
        from pytest_taskservice.simulator.loops.stage import Stage
        from pytest_taskservice.simulator.loops.world import virtual_loops

        self._stage = stage = Stage(self.simulation, seed=self.simulation.seed, moved_by_owner=True)
        stage.help, stage.let_work = self.threads.help, self._companions.let_work
        try:
            self._stack.enter_context(virtual_loops(stage))
        except BaseException:
            self._stage = None
            raise
        self.threads.nudge = stage.ask_owner
        self.threads.at_work = stage.at_work
        # Once more, over it: a task's loop waits as a task does.
        patches = Patches()
        install_fiber_loops(patches, self.simulation, self.threads.errands)
        self._stack.callback(patches.undo)
        return True

    def start_worker(
        self, app: Celery, *, hostname: str | None = None, concurrency: int = 2, **options: Any
    ) -> SimulatedWorker:
        """Start a worker of ``app`` and wait until it consumes; ``options`` are ``WorkController``'s."""
        worker = self.new_worker(app, hostname=hostname, concurrency=concurrency, **options)
        self.wait_ready(worker)
        return worker

    def wait_ready(self, worker: SimulatedWorker) -> None:
        """Wait until ``worker`` consumes."""
        self.simulation.wait(lambda: worker.ready, timeout=_READY_WITHIN, what="a worker to start")
        if not worker.ready:
            raise SimulationError(
                f"worker {worker.hostname} was not ready after {_READY_WITHIN:g} s of virtual time"
            )
        # A worker takes its time to start: whatever follows does not happen on the stroke of a second.
        self.simulation.spend(self.simulation.random.between("boot", self.latency.boot))

    def stop(self, worker: SimulatedWorker) -> None:
        """End a worker warmly: what it has begun ends first, the rest goes back to its queue."""
        worker.shut_down()
        self.simulation.wait(
            lambda: not worker.process.alive, timeout=_READY_WITHIN, what=f"{worker.hostname} to stop"
        )

    def new_worker(
        self, app: Celery, *, hostname: str | None = None, concurrency: int = 2, **options: Any
    ) -> SimulatedWorker:
        """Start a worker without waiting for it."""
        self._control.restore()
        name = hostname or f"worker{len(self.workers) + 1}@sim"
        worker = SimulatedWorker(self, app, hostname=name, concurrency=concurrency, **options)
        self.workers.append(worker)
        worker.begin()
        return worker

    def start_beat(self, app: Celery, **options: Any) -> SimulatedBeat:
        """Start the app's beat."""
        beat = SimulatedBeat(self.simulation, app, **options)
        self.beats.append(beat)
        beat.begin()
        return beat

    def crash(self, worker: SimulatedWorker) -> None:
        """End a worker as SIGKILL would: its messages are the broker's to give to others."""
        self.record.note("crashed", worker=worker.process.name)
        self.tell_gone(worker)
        for job in worker.untold():
            self.record.stored(job.request, worker.process.name, job.returned)
        worker.crash()
        process = worker.process
        for broker in self._brokers.values():
            broker.lost(lambda channel: channel.process() is process)

    def replace(self, gone: SimulatedWorker) -> SimulatedWorker:
        """Start a worker of the same name, options and queues where one is ``gone``; do not wait for it."""
        queues = gone.queues_then
        self.workers.remove(gone)
        worker = self.new_worker(gone.app, **gone.given)
        worker.queues_then = queues
        worker.when_ready = lambda: _listen(worker, queues)
        gone.successor = worker
        return worker

    def living(self) -> list[SimulatedWorker]:
        """Return the workers that have not ended."""
        return [worker for worker in self.workers if worker.process.alive]

    def accounts(self) -> Accounts:
        """Say for every run that was accepted what became of it, or where it is."""
        return take_stock(self)

    def brokers(self) -> Iterable[Broker]:
        """Return every broker that was connected to."""
        return self._brokers.values()

    def teach(self, worker: SimulatedWorker, queues: list[str], headers: Mapping[str, Any]) -> None:
        """Let ``worker`` listen where a task's message goes."""
        while worker.successor is not None:
            worker = worker.successor
        consumer: Any = worker.consumer
        # What no worker knows is another service's: it stays in its queue, as on a real broker.
        if not worker.ready or headers.get("task") not in worker.app.tasks:
            return
        for queue in queues:
            if queue in worker.known_queues:
                continue
            # Once: a test may have told the worker to leave it.
            worker.known_queues.add(queue)
            if not consumer.task_consumer.consuming_from(queue):
                worker.process.post(consumer.add_task_queue, queue)

    # What the parts ask.

    def tell_up(self, worker: SimulatedWorker) -> None:
        """Note that a worker consumes, once in its life."""
        process = worker.process
        if not self.tells_workers or process.on_gone is not None:
            return
        process.on_gone = partial(self.tell_gone, worker)
        found: Any = worker
        queues = sorted(queue.name for queue in found.consumer.task_consumer.queues)
        detail = {"slots": worker.simulated_pool.num_processes, "queues": queues if worker.bound else []}
        self.record.note(EventKind.WORKER_UP, worker=process.name, detail=detail)

    def tell_gone(self, worker: SimulatedWorker) -> None:
        """Note that a worker is no more, if it ever was."""
        if worker.process.on_gone is not None:
            worker.process.on_gone = None
            self.record.note(EventKind.WORKER_GONE, worker=worker.process.name)

    def broker_of(self, client: Any) -> Broker:
        """Return the broker that a connection's URL names."""
        key = _address(client)
        if key not in self._brokers:
            rules = rules_for(str(client.transport_cls), client.transport_options or {})
            self._brokers[key] = Broker(self.simulation, rules, self.latency)
            self.faults.reach(self._brokers[key])
            if rules.kind == "redis":
                server = transport.server_of(client)
                self._redis_brokers.add(server)
                self._lists_of(server).add(client, self._brokers[key])
                if self.redis.obstructed:
                    self.faults.reach_redis()
        return self._brokers[key]

    def _lists_of(self, server: tuple[str, int]) -> BrokerLists:
        store = self.redis.store(*server)
        if not isinstance(store.lists, BrokerLists):
            store.lists = BrokerLists(self.threads.inside)
        return store.lists

    def redis_brokers(self) -> Iterable[tuple[str, int]]:
        """Return host and port of each broker that is a Redis; a Unix socket's path and 0."""
        if self.app is not None:
            # Nobody may have connected yet.
            app, self.app = self.app, None
            for connection in (app.connection_for_write(), app.connection_for_read()):
                self.broker_of(connection)
        return self._redis_brokers

    def exchanges_of(self, client: Any) -> BrokerState:
        """Return the exchanges and bindings of that broker."""
        return self._exchanges.setdefault(_address(client), BrokerState())

    def sent(self, queues: list[str], message: Mapping[str, Any]) -> None:
        """Note a message that has left."""
        headers = message["headers"]
        if headers and "task" in headers:
            fiber = current_fiber()
            process: Any = None if fiber is None else fiber.process
            self.record.sent(
                headers, queues[0] if queues else "", worker="" if process is None else process.name
            )

    def body_cost(self, job: Job) -> float:
        """Return how long a body takes that does not wait for anything."""
        return self.simulation.random.between("body", self.latency.body) + self.slowness(job)

    def release(self, process: MainProcess) -> None:
        """Free a slot of a worker."""
        for worker in self.workers:
            if worker.process is process:
                semaphore: Any = worker
                semaphore._quick_release()  # noqa: SLF001 - billiard's pool is handed the same
                return

    def accepted(self, app: Any) -> Any:
        """Return the content types that an app's workers accept."""
        if app not in self._accepted:
            self._accepted[app] = prepare_accept_content(app.conf.accept_content)
        return self._accepted[app]

    def _open(self, stack: ExitStack) -> None:
        simulation = self.simulation
        simulation.on_move = stack.enter_context(wall_clock(simulation.now(), on_read=note_reading))
        stack.callback(gc.set_threshold, *gc.get_threshold())
        # Finalizers do what others see: where a fault has broken Celery's connection for results, it looks at
        # all that nobody has collected. They run after so many events, and by themselves when much was made.
        gc.set_threshold(_COLLECT_AT, *gc.get_threshold()[1:])
        simulation.housekeeping = _Collector()
        companions = Companions(simulation)
        stack.enter_context(replaced(companions))
        patches = Patches()
        stack.callback(patches.undo)
        companions.install(patches)
        self.threads = Threads(simulation)
        self.threads.open_loops = self._open_late
        self.threads.serves_sockets = bool(self._allow_sockets)
        simulation.outsiders = self.threads
        companions.waiting = self.threads.waiting_threads
        self._companions, self.threads.errands.bystanders = companions, companions.threads
        self.threads.install(patches)
        install_seams(patches, simulation, self.record.of_request)
        signals.task_received.connect(self.record.received, weak=False)
        stack.callback(signals.task_received.disconnect, self.record.received)
        install_listener(patches, simulation, self.threads)
        install_limits(patches)
        self._control.install(patches)
        install_fiber_loops(patches, simulation, self.threads.errands)
        self._await_trio(patches)
        if self._exact:
            drop_shortcuts()
        else:
            install_shortcuts(patches, _SHORTCUTS)
            install_json(patches)
        self._open_redis(stack, patches)
        transport.attach(self)
        stack.callback(transport.attach, None)
        self.state = ModuleState()
        stack.callback(self.state.close)
        stack.callback(simulation.close)
        stack.enter_context(watched(simulation, self._patience))

    def _open_late(self) -> bool:
        """Open loops for a test that was not known to need them; False also where none can be made."""
        try:
            return self.open_loops()
        except SimulationError:
            raise
        except Exception:  # noqa: BLE001 - a suite may forbid the sockets of a loop in a way of its own
            return False

    def _await_trio(self, patches: Patches) -> None:
        """Open loops as soon as the test itself runs trio; asyncio's are looked out for by `Threads`."""
        inside = sys.modules.get("trio._core._run")
        if inside is None:
            return
        original: Any = vars(inside)["setup_runner"]

        def setup_runner(*args: Any, **kwargs: Any) -> Any:
            if self.threads.inside() and current_fiber() is None and self._open_late():
                # In virtual time from now on.
                return vars(inside)["setup_runner"](*args, **kwargs)
            return original(*args, **kwargs)

        patches.set(inside, "setup_runner", setup_runner)

    def _open_redis(self, stack: ExitStack, patches: Patches) -> None:
        from pytest_taskservice.simulator.celery.quick_results import install_quick_results
        from pytest_taskservice.simulator.redis import SimulatedRedis

        self.redis = SimulatedRedis(self.simulation, allow_sockets=self._allow_sockets)
        self.redis.install(patches)
        install_quick_results(patches, self.redis)
        stack.callback(self.redis.close)

    def _note_sleep(self, seconds: float) -> None:
        fiber = current_fiber()
        job: Job | None = getattr(fiber and fiber.process, "job", None)
        # One that polls would fill the record, and one that gives way for an instant does not sleep.
        if job is None or job.sleeps >= _TOLD_SLEEPS or seconds < _SLEEP:
            return
        job.sleeps += 1
        where = job.pool.process.name
        text = f"{seconds:g} s"
        self.record.note(
            "sleeps", run=job.id, task=job.name, attempt=job.attempt, worker=where, detail={"for": text}
        )

    def _explain(self) -> Iterable[str]:
        for worker in self.workers:
            name = worker.process.name
            if not worker.process.alive:
                yield f"{name} is dead"
            elif worker.process.held_up is not None:
                yield f"{name} is paused"
            for job in worker.simulated_pool.jobs:
                yield f"{name} runs {job}"
        yield from self.faults.explain()
        for broker in self._brokers.values():
            for queue, raw in broker.waiting()[:10]:
                yield f"queue {queue!r} holds {_named(raw)}"
            for queue, raw in broker.unacked()[:10]:
                yield f"not acknowledged, from {queue!r}: {_named(raw)}"
            for queue, raw in broker.coming()[:10]:
                yield f"on its way to {queue!r}: {_named(raw)}"


class _Collector:
    """Collects garbage: mostly what is young, and at each tenth time what is a generation older."""

    def __init__(self) -> None:
        self._times = 0

    def __call__(self) -> None:
        if not gc.isenabled():
            return
        self._times += 1
        gc.collect(0 if self._times % _OLDER else 1 if self._times % _OLDER**2 else 2)


def _listen(worker: SimulatedWorker, queues: list[str]) -> None:
    consumer: Any = getattr(worker, "consumer", None)
    for queue in queues:
        if not consumer.task_consumer.consuming_from(queue):
            consumer.add_task_queue(queue)


def _address(client: Any) -> tuple[str, int, str]:
    port = int(client.port or transport.default_port(client))
    return (str(client.hostname or "localhost"), port, str(client.virtual_host or "/"))


def _named(raw: Mapping[str, Any]) -> str:
    headers = raw.get("headers") or {}
    name = headers.get("shadow") or headers.get("task") or "a message"
    return f"{name}[{headers.get('id', '')}]"
