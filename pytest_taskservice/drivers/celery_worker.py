"""The ``celery`` world: the user's app on real worker processes and a real Redis, kept for the session."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_taskservice.drivers import celery_app, discovery, exchanges
from pytest_taskservice.drivers.app_patch import AppPatch
from pytest_taskservice.drivers.base import (
    CanvasRuns,
    Capability,
    CapabilityError,
    FaultControl,
    Outcome,
    Stage,
    TaskCall,
    WorkflowControl,
)
from pytest_taskservice.drivers.frozen import refuse_frozen_launches, refusing_frozen_time
from pytest_taskservice.drivers.staging import rebound, with_settings
from pytest_taskservice.drivers.together import at_once
from pytest_taskservice.drivers.worker_faults import WorkerFaults
from pytest_taskservice.drivers.worker_fleet import Fleet, Member
from pytest_taskservice.drivers.worker_kept import KeptWorlds, World
from pytest_taskservice.drivers.worker_place import Place, breakable, no_connection_faults, no_redis_faults
from pytest_taskservice.drivers.worker_process import WorkerProcess
from pytest_taskservice.drivers.worker_shape import make_specs, settings_in
from pytest_taskservice.errors import HarnessTimeoutError, WorkerStartError
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.scenario.acts import CONNECTION_FAULTS, PROCESS_FAULTS

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.drivers.worker_spec import WorkerSpec
    from pytest_taskservice.redis import RedisServer
    from taskservice import BlockingTaskService
    from taskservice.backends.base import TaskBackend
    from taskservice.reaper import Reaper

__all__ = ["CeleryWorkerDriver", "WorkerOptions"]

_CANNOT = {
    Capability.CLOCK: "a real worker runs in real time",
    Capability.AMQP: "the world's broker is a Redis",
}
_SETTLE = 0.05
_CLEAR = 2.0
_PAUSE = 0.01
_ACTS = 30.0
_SPARES = 3
_KEPT = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """How the worker is run; ``timeout`` bounds its start, in seconds."""

    pool: str = "prefork"
    concurrency: int = 2
    timeout: float = 30.0


class CeleryWorkerDriver:
    """Worker processes for one app at a time, exchanged only when a test needs other ones.

    Of those that are exchanged a few are kept, each on keys of its own. A test that is no scenario has one
    worker. A scenario has those of its stage, and a Redis that may be
    broken if it announces faults; what a fault has broken is thrown away after it.
    """

    name = "celery"

    def __init__(
        self, server: RedisServer, *, options: WorkerOptions, reaper: Reaper, prefix: str = ""
    ) -> None:
        self.refused: list[CapabilityError] = []
        self._cannot = dict(_CANNOT)
        if (reason := no_connection_faults(server)) is not None:
            self._cannot[Capability.CONNECTION_FAULTS] = reason
        self.capabilities = frozenset(Capability) - self._cannot.keys()
        self._server = server
        self._options = options
        self._reaper = reaper
        self._spares: list[WorkerProcess] = []
        self._stage: Stage | None = None
        self._calm = Place(server.url, prefix)
        self._rough: Place | None = None
        self._kept = KeptWorlds()
        self._place = self._calm
        self._fleet: Fleet | None = None
        self._specs: tuple[WorkerSpec, ...] = ()
        self._faults: WorkerFaults | None = None
        self._app: Celery | None = None
        self._settings: Mapping[str, Any] = {}
        self._patches: dict[tuple[str, str, str], AppPatch] = {}
        self._test = ExitStack()
        self._workflows: WorkflowControl | None = None
        self._told: list[Event] = []
        self._leaving: dict[str, float] = {}
        self._started_in = 0.0
        self._hints: list[str] = []
        self._exchanges: dict[str, str] = {}
        self._never_known: frozenset[str] = frozenset()
        self._failed: tuple[tuple[WorkerSpec, ...], str] | None = None

    def warm(self) -> None:
        """Start a process that imports Celery meanwhile; the first test then waits less."""
        if not self._spares and self._fleet is None:
            self._spares.append(WorkerProcess(self._reaper))

    def take_warm(self) -> WorkerProcess | None:
        """Give that process away, if no test has needed it yet."""
        return self._spares.pop() if self._spares else None

    def move_to(self, prefix: str) -> None:
        """Keep to the keys that begin with ``prefix``, before the first test."""
        assert self._fleet is None, "a worker listens already"
        self._calm.prefix = prefix

    def cannot(self, capability: Capability) -> str | None:
        """Return why: a real worker shows all but a clock that can be moved."""
        return self._cannot.get(capability)

    def clock(self) -> Clock:
        """Refuse."""
        self._refuse(Capability.CLOCK, _CANNOT[Capability.CLOCK])

    def set_stage(self, stage: Stage) -> None:
        """Say what the next test, a scenario, needs."""
        self._stage = stage

    def begin(
        self,
        app: Celery | None,
        settings: Mapping[str, Any],
        *,
        real_time: bool = False,
        loops: bool = False,
    ) -> None:
        """Point ``app`` at its workers; start or exchange them where this test needs it."""
        assert app is not None, "the celery world needs an app"
        self._hints, self.refused = [], []
        if self._app is not app:
            self._forget_app()
            # Asked before the first patch: afterwards every app seems to be meant for Redis.
            self._exchanges = exchanges.known_types(app)
        settings = with_settings(self._stage, settings)
        same = self._app is app and self._settings == settings and not self._specs_are_a_storys()
        self._app, self._settings = app, settings
        if self._stage is not None or not same or not self._ready(app):
            self._serve(app, settings)
        self._enter(app, settings)

    def _enter(self, app: Celery, settings: Mapping[str, Any]) -> None:
        """Begin the test itself, with its workers up."""
        fleet = self._running()
        if any("mode=memory" in name for name in self._specs[0].databases.values()):
            self._hints.append(
                "Django's test database is in this process's memory, where no worker sees it: name a file "
                "in DATABASES[...]['TEST']['NAME']"
            )
        app.finalize()
        before = {name: app.conf.get(name) for name in settings}
        self._test.enter_context(self._patch(app, settings).applied())
        self._test.enter_context(rebound(app, settings, before))
        self._test.enter_context(refusing_frozen_time(app))
        self._test.callback(exchanges.teach(self._specs[0].exchanges))
        self._listen()
        fleet.look(_SETTLE)
        fleet.mark()
        self._told = []
        if self._stage is None:
            return
        from pytest_taskservice.drivers.worker_sends import deliver_badly

        self._test.enter_context(deliver_badly(fleet.ledger))
        self._faults = WorkerFaults(
            fleet,
            self._place,
            seed=self._stage.seed,
            timeout=self._options.timeout,
            tell=self._tell,
            refuse=self._refuse,
            redis_fault=no_redis_faults(self._server),
        )
        for member in fleet.workers:
            self._up(member)
        # Faults use some up, and the next story is to find one.
        self._keep_spares(min(_SPARES, len(fleet.members) + bool(self._stage.faults)))
        # What the first launch needs is there before the story's clock begins.
        with app.producer_or_acquire() as producer:
            _ = producer.channel
        if self._stage.workflows:
            self.workflows()

    def task_backend(self) -> TaskBackend:
        """Return a backend over the app, as a production service would have it."""
        from taskservice.backends.celery import CeleryBackend

        assert self._app is not None
        return refuse_frozen_launches(CeleryBackend(self._app))

    def blocking_service(self) -> BlockingTaskService:
        """Return the same service for a test without an event loop."""
        from taskservice import BlockingTaskService

        return BlockingTaskService(self.task_backend())

    def launch(self, call: TaskCall) -> str:
        """Send one message."""
        assert self._app is not None
        with self._patience("a launch"):
            return str(celery_app.send(self._app, call).id)

    def launch_canvas(self, kind: str, members: tuple[TaskCall, ...], body: TaskCall | None) -> CanvasRuns:
        """Send the first messages of a canvas; its workers send the others."""
        from pytest_taskservice.drivers.canvases import send_canvas

        assert self._app is not None
        with self._patience("the launch of a canvas"):
            return send_canvas(self._app, kind, members, body)

    def workflows(self) -> WorkflowControl:
        """Return control over workflow runs on the workers."""
        from pytest_taskservice.drivers.workflow_celery import open_on_workers

        assert self._app is not None
        if self._workflows is None:
            self._workflows = open_on_workers(
                self._app, self.task_backend(), self._stage, tell=self._told.append, held=self._test
            )
        return self._workflows

    def faults(self) -> FaultControl:
        """Return control over the faults of this test."""
        if self._faults is None:
            self._refuse(Capability.PROCESS_FAULTS, "the test is no scenario: its workers are kept")
        return self._faults

    def at_once(self, acts: Sequence[Callable[[], None]]) -> None:
        """Do all of ``acts`` in threads that really race."""
        at_once(acts, timeout=_ACTS)

    def outcome(self, run_id: str) -> Outcome:
        """Return what the result backend says; where a fault keeps it from answering, what it said last."""
        assert self._app is not None
        if self._place.proxy is None:
            return celery_app.outcome_of(self._app, run_id)
        return self._place.outcome_of(self._app, run_id)

    def revoke(self, run_id: str) -> None:
        """Revoke by the workers' remote control, and wait for their answers."""
        assert self._app is not None
        workers = max(1, len(self._running().living()))
        with self._patience("a revocation"):
            self._app.control.revoke(run_id, reply=True, timeout=2.0, limit=workers)

    def settle(self, *, timeout: float) -> None:
        """Wait until the queues are empty and the workers are idle."""
        fleet = self._running()
        deadline = time.monotonic() + timeout
        before: int | None = None
        while True:
            left = max(0.0, deadline - time.monotonic())
            look = fleet.look(min(left, 1.0))
            queued = self._queued(fleet)
            if look.idle and not queued:
                # They hand on to each other, by ways that take time: at rest is what has not moved since.
                if self._stage is None or look.seen == before:
                    return
                before = look.seen
                time.sleep(_PAUSE)
                continue
            before = None
            if left == 0.0:
                raise HarnessTimeoutError(
                    f"not settled within {timeout:g} s: {queued or 'nothing queued'}; "
                    f"{fleet.held() or 'idle worker'}"
                )
            if look.idle:
                time.sleep(_PAUSE)

    def log(self) -> EventLog:
        """Return the messages sent by the test, what its workers did since, and what was done to them."""
        fleet = self._running()
        # A result reaches its reader before the worker's own process has heard of the end.
        fleet.look(_SETTLE)
        events = [*self._told, *(celery_app.event_from(record) for record in fleet.ledger.records())]
        if self._faults is not None:
            events += self._faults.struck_events()
        return EventLog(iter(events))

    def reset(self) -> None:
        """Purge messages and results, and free the workers; replace them if that cannot be."""
        stage, self._stage = self._stage, None
        faults, self._faults = self._faults, None
        if faults is not None:
            faults.close()
        self._test.close()
        self._workflows = None
        if self._fleet is None:
            return
        # Whoever was ended, or has ended itself, has left the others in a state that no other test expects.
        if stage is not None and (
            (faults and faults.broken) or len(self._fleet.living()) < len(self._fleet.workers)
        ):
            self._throw_away()
            return
        try:
            self._clear(self._fleet)
        except (WorkerStartError, HarnessTimeoutError):
            # The test has killed it, or it hangs: the next test gets another.
            self._stop()
            self._place.clear()

    def _clear(self, fleet: Fleet) -> None:
        self._place.clear()
        before = fleet.look(0.0).seen
        look = fleet.look(_SETTLE)
        if not look.idle and not self._free(fleet):
            self._stop()
        if look.seen != before or not look.idle:
            self._place.clear()

    def _throw_away(self) -> None:
        """Leave nothing of what a fault has broken."""
        self._stop()
        if self._rough is not None and self._place is self._rough:
            self._leave_rough()
        else:
            self._place.clear()

    def describe(self) -> str:
        """Return pool, start-up time and app."""
        if self._fleet is None:
            return self._pool()
        own = [name for name in self._fleet.tasks if not name.startswith(("celery.", "taskservice."))]
        up = f"{self._pool()}, worker up in {self._started_in:.2f} s"
        if not own:
            return up
        app = self._specs[0].app
        where = f"{app[0].name}:{app[1]}" if app else self._specs[0].main
        return f"{up} · app {where} ({len(own)} task{'s' * (len(own) != 1)})"

    def report(self) -> dict[str, str]:
        """Return the workers' log during this test, and what they could not find."""
        texts = {}
        if self._fleet is not None:
            texts["worker log"] = self._fleet.log_text()
            if self._fleet.living():
                texts["unfinished"] = self._fleet.held()
        if self._hints:
            texts["hint"] = "\n".join(self._hints)
        return texts

    def close(self) -> None:
        """End the workers, and forget the app's connections to them."""
        if self._faults is not None:
            self._faults.close()
            self._faults = None
        self._test.close()
        self._forget_app()
        while self._spares:
            self._spares.pop().close()
        self._stop()
        self._kept.close()
        self._leave_rough()
        self._calm.close()

    # Where messages go.

    def _may_be_broken(self) -> bool:
        return self._stage is not None and bool(self._stage.faults & {*PROCESS_FAULTS, *CONNECTION_FAULTS})

    def _new_place(self) -> Place:
        """Return where new workers are to be: on keys that no other worker listens to."""
        if self._stage is None:
            return self._calm
        if self._may_be_broken():
            if self._rough is None:
                self._rough = breakable(self._server, self._calm.prefix, reaper=self._reaper)
            return self._rough
        taken = {world.place.prefix for world in self._kept}
        prefixes = (f"{self._calm.prefix}story{number}:" for number in itertools.count(1))
        return Place(self._server.url, next(prefix for prefix in prefixes if prefix not in taken))

    def _leave_rough(self) -> None:
        place, self._rough = self._rough, None
        if place is None:
            return
        for key in [key for key in self._patches if key[0] == place.url("test")]:
            self._patches.pop(key).close()
        if place.mortal is None:
            place.clear()
        place.close()
        self._place = self._calm

    def _patch(self, app: Celery, settings: Mapping[str, Any]) -> AppPatch:
        key = (self._place.url("test"), self._place.prefix, json.dumps(settings, sort_keys=True))
        if key not in self._patches:
            self._patches[key] = AppPatch(app, settings_in(self._place, app, settings, who="test"))
        return self._patches[key]

    def _forget_app(self) -> None:
        for patch in self._patches.values():
            patch.close()
        self._patches.clear()
        self._app = None

    # Who serves.

    def _specs_are_a_storys(self) -> bool:
        return any(spec.story for spec in self._specs)

    def _ready(self, app: Celery) -> bool:
        fleet = self._fleet
        if fleet is None or not all(member.alive for member in fleet.members):
            return False
        if self._specs[0].databases != discovery.find_databases():
            return False
        return self._knows_all(self._world(fleet), app)

    def _serve(self, app: Celery, settings: Mapping[str, Any]) -> None:
        """Have workers for ``app`` with ``settings``: those we have, or new ones."""
        started = time.perf_counter()
        if self._fleet is not None:
            # Also the one we have: it may be the one to be taken.
            self._kept.put(self._world(self._fleet))
        world = self._kept.take(lambda each: self._fits(each, app, settings))
        if world is not None:
            self._enter_world(world)
            return
        self._fleet, self._specs, self._place = None, (), self._new_place()
        self._kept.leave(self._place)
        self._kept.shrink(_KEPT)
        specs = self._specs_on(self._place, app, settings)
        if self._failed is not None and self._failed[0] == specs:
            raise WorkerStartError(f"as before, {self._failed[1]}")
        self._specs = specs
        self._fleet = Fleet(specs, reaper=self._reaper, spare=self._spare, on_up=self._up, on_gone=self._gone)
        try:
            self._fleet.start(timeout=self._options.timeout)
        except WorkerStartError as error:
            # Every further test would wait for the same end.
            self._failed = (specs, str(error))
            self._stop()
            raise
        self._started_in = time.perf_counter() - started
        # What a new worker has not found it never will; asking again would start one for every test.
        self._never_known = frozenset(app.tasks.keys() - self._fleet.tasks)

    def _specs_on(self, place: Place, app: Celery, settings: Mapping[str, Any]) -> tuple[WorkerSpec, ...]:
        return make_specs(
            app,
            settings,
            place,
            stage=self._stage,
            pool=self._options.pool,
            concurrency=self._options.concurrency,
            known=self._exchanges,
        )

    def _world(self, fleet: Fleet) -> World:
        return World(
            specs=self._specs,
            fleet=fleet,
            place=self._place,
            never_known=self._never_known,
            owns_place=self._place not in (self._calm, self._rough),
        )

    def _fits(self, world: World, app: Celery, settings: Mapping[str, Any]) -> bool:
        """Whether the workers of ``world`` are what this test needs."""
        is_there = (world.place is self._rough) is self._may_be_broken() and world.is_whole
        if not is_there or world.specs != self._specs_on(world.place, app, settings):
            return False
        return self._knows_all(world, app)

    def _knows_all(self, world: World, app: Celery) -> bool:
        missing = app.tasks.keys() - world.fleet.tasks - world.never_known
        return all(discovery.is_local(app.tasks[name]) for name in missing)

    def _enter_world(self, world: World) -> None:
        self._specs, self._fleet, self._place = world.specs, world.fleet, world.place
        self._never_known = world.never_known

    def _spare(self) -> WorkerProcess:
        if self._spares:
            return self._spares.pop()
        return WorkerProcess(self._reaper, story=self._stage is not None)

    def _keep_spares(self, count: int) -> None:
        """Have processes import Celery meanwhile: for those that a fault ends, or the next story's."""
        while len(self._spares) < count:
            self._spares.append(WorkerProcess(self._reaper, story=True))

    def _listen(self) -> None:
        from celery import signals

        for signal, receiver in (
            (signals.before_task_publish, self._before_publish),
            (signals.after_task_publish, self._after_publish),
        ):
            signal.connect(receiver, weak=False)
            self._test.callback(signal.disconnect, receiver)

    def _before_publish(self, sender: Any = None, headers: Any = None, **message: Any) -> None:
        """Before a message leaves: make sure that the workers know its task and listen to its queue."""
        app = self._app
        assert app is not None
        name = str(sender)
        if name not in self._running().tasks and name in app.tasks:
            self._teach(name)
        if self._stage is None or self._stage.workers is None or not self._stage.workers.queues:
            fleet = self._running()
            for queue in message.get("declare") or ():
                if queue.name not in fleet.queues:
                    fleet.consume(queue.name)
        # Told once it has gone out, but a worker may have it before we are told.
        self._leaving[str((headers or {}).get("id", ""))] = celery_app.now()

    def _after_publish(self, sender: Any = None, **message: Any) -> None:
        from pytest_taskservice.drivers.worker_sends import sent_event

        run = str((message.get("headers") or {}).get("id", ""))
        at = self._leaving.pop(run, None) or celery_app.now()
        self._tell(celery_app.event_from(sent_event(sender, message, at=at)))

    def _teach(self, name: str) -> None:
        """Exchange idle workers for ones that have imported the module of task ``name`` too."""
        assert self._app is not None
        fleet = self._running()
        if discovery.is_local(self._app.tasks[name]):
            self._hints.append(
                f"task {name!r} is defined inside a function; the worker is another process and can "
                "only import it from module level"
            )
        elif name in self._never_known:
            self._hints.append(f"the worker has imported the module of task {name!r} and found no such task")
        elif self._stage is None and fleet.look(1.0).idle:
            self._serve(self._app, self._settings)

    def _running(self) -> Fleet:
        assert self._fleet is not None, "no test has begun"
        return self._fleet

    def _patience(self, what: str) -> AbstractContextManager[object]:
        if self._faults is None or self._place.proxy is None:
            # Nothing can keep an answer back.
            return nullcontext()
        return self._faults.patience(what)

    def _queued(self, fleet: Fleet) -> str:
        """Return what is still under way to a worker, in words; empty if nothing is."""
        from redis.exceptions import RedisError

        try:
            waiting = self._place.waiting(fleet.queues)
            unacknowledged = self._place.unacknowledged() if self._stage is not None else 0
        except (RedisError, OSError):
            if self._place.proxy is None:
                raise
            return "the Redis does not answer"
        counts = {
            "queued": waiting,
            "not acknowledged": unacknowledged,
            "held back": len(fleet.ledger.held()) if self._stage is not None else 0,
        }
        if self._place.proxy is not None:
            counts["on the way"] = self._place.proxy.carrying()
        texts = [f"{count} {what}" for what, count in counts.items() if count]
        if self._faults is not None and (coming := self._faults.pending()):
            texts.append(coming)
        return ", ".join(texts)

    def _free(self, fleet: Fleet) -> bool:
        # Only a pool of processes can be made to stop what it runs.
        if any(member.spec.pool != "prefork" for member in fleet.workers):
            return fleet.look(_SETTLE).idle
        return fleet.free(_CLEAR)

    def _pool(self) -> str:
        slots = "" if self._options.pool == "solo" else f" x{self._options.concurrency}"
        return f"{self._options.pool}{slots}"

    def _stop(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
            self._specs = ()

    # What is told.

    def _tell(self, event: Event) -> None:
        self._told.append(event)

    def _up(self, member: Member) -> None:
        if self._stage is None or member.is_beat or self._faults is None:
            # Told when the story begins.
            return
        process = member.process
        detail = {"slots": _slots(member), "queues": sorted(process.queues) if process else []}
        self._tell(_event(EventKind.WORKER_UP, member, detail))

    def _gone(self, member: Member) -> None:
        if self._faults is None:
            return
        if not member.is_beat:
            self._tell(_event(EventKind.WORKER_GONE, member, {}))
        self._faults.gone(member)

    def _refuse(self, capability: Capability, reason: str) -> NoReturn:
        error = CapabilityError(self.name, capability, reason)
        self.refused.append(error)
        raise error


def _slots(member: Member) -> int:
    return 1 if member.spec.pool == "solo" else member.spec.concurrency


def _event(kind: EventKind, member: Member, detail: Mapping[str, Any]) -> Event:
    return Event(at=celery_app.now(), kind=kind, run="", task="", worker=member.name, detail=detail)
