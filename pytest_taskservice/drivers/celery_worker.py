"""The ``celery`` world: the user's app on real worker processes and a real Redis, kept for the session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_taskservice.drivers import celery_app, discovery, exchanges
from pytest_taskservice.drivers.app_patch import finalize
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
from pytest_taskservice.drivers.bounded import bounded_waits
from pytest_taskservice.drivers.eagerness import Eagerness
from pytest_taskservice.drivers.frozen import refuse_frozen_launches, refusing_frozen_time
from pytest_taskservice.drivers.staging import rebound, with_settings
from pytest_taskservice.drivers.together import at_once
from pytest_taskservice.drivers.unshared import Unshared
from pytest_taskservice.drivers.worker_faults import WorkerFaults
from pytest_taskservice.drivers.worker_outgoing import Outgoing
from pytest_taskservice.drivers.worker_place import no_connection_faults, no_redis_faults
from pytest_taskservice.drivers.worker_serving import SETTLE, Serving, WorkerOptions
from pytest_taskservice.drivers.worker_settling import settle
from pytest_taskservice.errors import HarnessTimeoutError, WorkerStartError
from pytest_taskservice.history import Event, EventKind, EventLog

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.drivers.worker_fleet import Fleet, Look, Member
    from pytest_taskservice.drivers.worker_process import WorkerProcess
    from pytest_taskservice.redis import RedisServer
    from taskservice import BlockingTaskService
    from taskservice.backends.base import TaskBackend
    from taskservice.reaper import Reaper

__all__ = ["CeleryWorkerDriver", "WorkerOptions"]

_CANNOT = {
    Capability.CLOCK: "a real worker runs in real time",
    Capability.AMQP: "the world's broker is a Redis",
}
_ACTS = 30.0
_SPARES = 3


class _Waited:
    """The workers that one test waits for; a message may have others come in their place."""

    def __init__(self, serving: Serving, app: Celery) -> None:
        self._serving = serving
        self._app = app

    def look(self) -> Look:
        return self._serving.running.look(SETTLE)

    def held(self) -> str:
        return self._serving.running.held()

    def serve(self, app: Any) -> bool:
        return app is self._app


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
        self._serving = Serving(
            server, options=options, reaper=reaper, prefix=prefix, on_up=self._up, on_gone=self._gone
        )
        self._stage: Stage | None = None
        self._faults: WorkerFaults | None = None
        self._app: Celery | None = None
        self._settings: Mapping[str, Any] = {}
        self._test = ExitStack()
        self._workflows: WorkflowControl | None = None
        self._told: list[Event] = []
        self._eagerness: Eagerness | None = None
        self._hints: list[str] = []
        self._unshared = Unshared()

    def warm(self) -> None:
        """Start a process that imports Celery meanwhile; the first test then waits less."""
        self._serving.warm()

    def take_warm(self) -> WorkerProcess | None:
        """Give that process away, if no test has needed it yet."""
        return self._serving.take_warm()

    def move_to(self, prefix: str) -> None:
        """Keep to the keys that begin with ``prefix``, before the first test."""
        self._serving.move_to(prefix)

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
        finalize(app)
        self._hints, self.refused = [], []
        if self._app is not app:
            self._app = None
            self._serving.turn_to(app)
        settings = with_settings(self._stage, settings)
        same = self._app is app and self._settings == settings and not self._serving.is_a_storys
        self._app, self._settings = app, settings
        if self._stage is not None or not same or not self._serving.is_ready(app):
            self._serving.serve(app, settings, self._stage)
        self._enter(app, settings)

    def _enter(self, app: Celery, settings: Mapping[str, Any]) -> None:
        """Begin the test itself, with its workers up."""
        serving, fleet = self._serving, self._serving.running
        if any("mode=memory" in (name or "") for name in serving.specs[0].databases.values()):
            self._hints.append(
                "Django's test database is in this process's memory, where no worker sees it: name a file "
                "in DATABASES[...]['TEST']['NAME']"
            )
        if serving.specs[0].app is None and (lost := discovery.own_task_class(app)):
            self._hints.append(
                f"no module holds this app, so the worker made one, without its task class {lost}: name one "
                "that a module holds (taskservice_app = 'module:app')"
            )
        self._eagerness = Eagerness(app) if self._stage is None else None
        before = {name: app.conf.get(name) for name in settings}
        self._test.enter_context(serving.patch(app, settings).applied())
        self._test.enter_context(rebound(app, settings, before))
        self._test.enter_context(refusing_frozen_time(app))
        self._test.callback(exchanges.teach(serving.specs[0].exchanges))
        outgoing = Outgoing(
            app,
            settings,
            self._stage,
            serving=serving,
            unshared=self._unshared,
            tell=self._tell,
            hint=self._hints.append,
        )
        outgoing.eagerness = self._eagerness
        self._test.enter_context(outgoing.heard())
        self._test.enter_context(self._unshared.listening(app))
        if self._stage is None:
            self._test.enter_context(
                bounded_waits(_Waited(self._serving, app), timeout=self._options.timeout)
            )
        fleet.look(SETTLE)
        fleet.mark()
        self._told = []
        if self._stage is not None:
            self._enter_story(app, self._stage, fleet)

    def _enter_story(self, app: Celery, stage: Stage, fleet: Fleet) -> None:
        from pytest_taskservice.drivers.worker_sends import deliver_badly

        self._test.enter_context(deliver_badly(fleet.ledger))
        self._faults = WorkerFaults(
            fleet,
            self._serving.place,
            seed=stage.seed,
            timeout=self._options.timeout,
            tell=self._tell,
            refuse=self._refuse,
            redis_fault=no_redis_faults(self._server),
        )
        for member in fleet.workers:
            self._up(member)
        # Faults use some up, and the next story is to find one.
        self._serving.keep_spares(min(_SPARES, len(fleet.members) + bool(stage.faults)))
        # What the first launch needs is there before the story's clock begins.
        with app.producer_or_acquire() as producer:
            _ = producer.channel
        if stage.workflows:
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
        place = self._serving.place
        if place.proxy is None:
            return celery_app.outcome_of(self._app, run_id)
        return place.outcome_of(self._app, run_id)

    def revoke(self, run_id: str) -> None:
        """Revoke by the workers' remote control, and wait for their answers."""
        assert self._app is not None
        workers = max(1, len(self._serving.running.living()))
        with self._patience("a revocation"):
            self._app.control.revoke(run_id, reply=True, timeout=2.0, limit=workers)

    def settle(self, *, timeout: float) -> None:
        """Wait until the queues are empty and the workers are idle."""
        serving, story = self._serving, self._stage is not None
        settle(serving.running, serving.place, timeout=timeout, story=story, faults=self._faults)

    def log(self) -> EventLog:
        """Return the messages sent by the test, what its workers did since, and what was done to them."""
        fleet = self._serving.running
        # A result reaches its reader before the worker's own process has heard of the end.
        fleet.look(SETTLE)
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
        fleet = self._serving.fleet
        if fleet is None:
            return
        # Whoever was ended, or has ended itself, has left the others in a state that no other test expects.
        if stage is not None and ((faults and faults.broken) or len(fleet.living()) < len(fleet.workers)):
            self._serving.throw_away()
            return
        try:
            self._serving.clear()
        except (WorkerStartError, HarnessTimeoutError):
            # The test has killed it, or it hangs: the next test gets another.
            self._serving.give_up()

    def describe(self) -> str:
        """Return pool, start-up time and app."""
        serving, fleet = self._serving, self._serving.fleet
        if fleet is None:
            return self._pool()
        own = [name for name in fleet.tasks if not name.startswith(("celery.", "taskservice."))]
        up = f"{self._pool()}, worker up in {serving.started_in:.2f} s"
        if not own:
            return up
        app = serving.specs[0].app
        where = f"{app[0].name}:{app[1]}" if app else serving.specs[0].main
        return f"{up} · app {where} ({len(own)} task{'s' * (len(own) != 1)})"

    def report(self) -> dict[str, str]:
        """Return the workers' log during this test, and what they could not find."""
        texts = {}
        if (fleet := self._serving.fleet) is not None:
            texts["worker log"] = fleet.log_text()
            if fleet.living():
                texts["unfinished"] = fleet.held()
        eager = self._eagerness and self._eagerness.hint
        hints = [*self._hints, *self._unshared.kept_apart()]
        if eager and self._told:
            hints.append(eager)
        if hints:
            texts["hint"] = "\n".join(dict.fromkeys(hints))
        return texts

    def close(self) -> None:
        """End the workers, and forget the app's connections to them."""
        if self._faults is not None:
            self._faults.close()
            self._faults = None
        self._test.close()
        self._unshared.close()
        self._app = None
        self._serving.close()

    def _patience(self, what: str) -> AbstractContextManager[object]:
        if self._faults is None or self._serving.place.proxy is None:
            # Nothing can keep an answer back.
            return nullcontext()
        return self._faults.patience(what)

    def _pool(self) -> str:
        slots = "" if self._options.pool == "solo" else f" x{self._options.concurrency}"
        return f"{self._options.pool}{slots}"

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
