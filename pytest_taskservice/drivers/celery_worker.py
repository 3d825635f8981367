"""The ``celery`` world: the user's app on a real worker process and a real Redis, kept for the session."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers import celery_app, discovery, exchanges, keys
from pytest_taskservice.drivers.app_patch import AppPatch, broker_changes
from pytest_taskservice.drivers.base import Capability, CapabilityError, Outcome, TaskCall
from pytest_taskservice.drivers.frozen import refuse_frozen_launches, refusing_frozen_time
from pytest_taskservice.drivers.worker_process import WorkerProcess
from pytest_taskservice.drivers.worker_spec import WorkerSpec
from pytest_taskservice.errors import HarnessTimeoutError, WorkerStartError
from pytest_taskservice.history import Event, EventKind, EventLog

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.drivers.base import Stage, WorkflowControl
    from pytest_taskservice.drivers.worker_spec import ModuleSource
    from pytest_taskservice.reaper import Reaper
    from pytest_taskservice.redis import RedisServer
    from taskservice import BlockingTaskService
    from taskservice.backends.base import TaskBackend

__all__ = ["CeleryWorkerDriver", "WorkerOptions"]

_CANNOT = {Capability.CLOCK: "a real worker runs in real time"}
_SETTLE = 0.05
_CLEAR = 2.0

_NOT_PASSED_ON = ("CELERY_", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """How the worker is run; ``timeout`` bounds its start, in seconds."""

    pool: str = "prefork"
    concurrency: int = 2
    timeout: float = 30.0


class CeleryWorkerDriver:
    """One worker process and one app at a time; both are exchanged only when a test needs other ones."""

    name = "celery"
    capabilities = frozenset(Capability) - _CANNOT.keys()

    def __init__(
        self, server: RedisServer, *, options: WorkerOptions, reaper: Reaper, prefix: str = ""
    ) -> None:
        self.refused: list[CapabilityError] = []
        self._server = server
        self._options = options
        self._reaper = reaper
        self._prefix = prefix
        self._warm: WorkerProcess | None = None
        self._worker: WorkerProcess | None = None
        self._spec: WorkerSpec | None = None
        self._app: Celery | None = None
        self._settings: Mapping[str, Any] = {}
        self._patches: dict[str, AppPatch] = {}
        self._test = ExitStack()
        self._stage: Stage | None = None
        self._workflows: WorkflowControl | None = None
        self._takes_part = False
        self._flow_modules: dict[ModuleSource, None] = {}
        self._sent: list[Event] = []
        self._leaves_at = 0.0
        self._marks = (0, 0)
        self._started_in = 0.0
        self._redis: redis.Redis | None = None
        self._hints: list[str] = []
        self._exchanges: dict[str, str] = {}
        self._never_known: frozenset[str] = frozenset()
        self._failed: tuple[WorkerSpec, str] | None = None

    def warm(self) -> None:
        """Start a process that imports Celery meanwhile; the first test then waits less."""
        if self._warm is None and self._worker is None:
            self._warm = WorkerProcess(self._reaper)

    def take_warm(self) -> WorkerProcess | None:
        """Give that process away, if no test has needed it yet."""
        process, self._warm = self._warm, None
        return process

    def move_to(self, prefix: str) -> None:
        """Keep to the keys that begin with ``prefix``, before the first test."""
        assert self._worker is None, "a worker listens already"
        self._prefix = prefix

    def cannot(self, capability: Capability) -> str | None:
        """Return why: a real worker shows all but a clock that can be moved."""
        return _CANNOT.get(capability)

    def clock(self) -> Clock:
        """Refuse."""
        error = CapabilityError(self.name, Capability.CLOCK, _CANNOT[Capability.CLOCK])
        self.refused.append(error)
        raise error

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
        """Point ``app`` at the worker; start or exchange the worker where this test needs it."""
        assert app is not None, "the celery world needs an app"
        self._hints, self.refused = [], []
        if self._app is not app:
            self._forget_app()
            # Asked before the first patch: afterwards every app seems to be meant for Redis.
            self._exchanges = exchanges.known_types(app)
        tells_more = self._prepare_workflows()
        if tells_more or self._app is not app or self._settings != settings or not self._ready(app):
            self._serve(app, settings)
        self._app, self._settings = app, settings
        assert self._spec is not None
        if any("mode=memory" in name for name in self._spec.databases.values()):
            self._hints.append(
                "Django's test database is in this process's memory, where no worker sees it: name a file "
                "in DATABASES[...]['TEST']['NAME']"
            )
        key = json.dumps(settings, sort_keys=True)
        if key not in self._patches:
            self._patches[key] = AppPatch(app, self._world(app) | dict(settings))
        self._test.enter_context(self._patches[key].applied())
        self._test.enter_context(refusing_frozen_time(app))
        self._test.callback(exchanges.teach(self._spec.exchanges))
        self._listen()
        assert self._worker is not None
        self._marks = (self._worker.log_size(), int(self._worker.ask("state")["events"]))
        self._sent = []

    def workflows(self) -> WorkflowControl:
        """Return control over workflow runs on the worker."""
        from pytest_taskservice.drivers.workflow_celery import open_on_workers

        assert self._app is not None
        if self._workflows is None:
            self._workflows = open_on_workers(
                self._app,
                self.task_backend(),
                self._stage,
                tell=self._sent.append,
                held=self._test,
            )
        return self._workflows

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
        return str(celery_app.send(self._app, call).id)

    def outcome(self, run_id: str) -> Outcome:
        """Return what the result backend says."""
        assert self._app is not None
        return celery_app.outcome_of(self._app, run_id)

    def revoke(self, run_id: str) -> None:
        """Revoke by the worker's remote control, and wait for its answer."""
        assert self._app is not None
        self._app.control.revoke(run_id, reply=True, timeout=2.0, limit=1)

    def settle(self, *, timeout: float) -> None:
        """Wait until the queues are empty and the worker is idle."""
        worker = self._running()
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            idle = worker.ask("settle", timeout=min(left, 1.0))["idle"]
            queued = keys.waiting(self._client(), self._prefix, worker.queues)
            if idle and not queued:
                return
            if left == 0.0:
                raise HarnessTimeoutError(
                    f"not settled within {timeout:g} s: {queued} queued; {self._held() or 'idle worker'}"
                )

    def log(self) -> EventLog:
        """Return the messages sent by the test and all that its worker did since."""
        worker = self._running()
        # A result reaches its reader before the worker's own process has heard of the end.
        worker.ask("settle", timeout=_SETTLE)
        records = worker.ask("events", after=self._marks[1])["events"]
        events = [*self._sent, *(celery_app.event_from(record) for record in records)]
        return EventLog(iter(events))

    def reset(self) -> None:
        """Purge messages and results, and free the worker; replace it if it cannot be freed."""
        self._test.close()
        self._workflows = None
        if self._worker is None:
            return
        try:
            self._clear(self._worker)
        except (WorkerStartError, HarnessTimeoutError):
            # The test has killed it, or it hangs: the next test gets another.
            self._stop()
            keys.clear(self._client(), self._prefix)

    def _clear(self, worker: WorkerProcess) -> None:
        keys.clear(self._client(), self._prefix)
        settled = worker.ask("settle", timeout=_SETTLE)
        if not settled["idle"] and not self._free(worker):
            self._stop()
        if settled["moved"] or not settled["idle"]:
            keys.clear(self._client(), self._prefix)

    def describe(self) -> str:
        """Return pool, start-up time and app."""
        if self._worker is None or self._spec is None:
            return self._pool()
        own = [name for name in self._worker.tasks if not name.startswith(("celery.", "taskservice."))]
        up = f"{self._pool()}, worker up in {self._started_in:.2f} s"
        if not own:
            return up
        app = self._spec.app
        where = f"{app[0].name}:{app[1]}" if app else self._spec.main
        return f"{up} · app {where} ({len(own)} task{'s' * (len(own) != 1)})"

    def report(self) -> dict[str, str]:
        """Return the worker's log during this test, and what it could not find."""
        texts = {}
        if self._worker is not None:
            texts["worker log"] = self._worker.log_text(self._marks[0])
            if self._worker.alive:
                texts["unfinished"] = self._held()
        if self._hints:
            texts["hint"] = "\n".join(self._hints)
        return texts

    def close(self) -> None:
        """End the worker, and forget the app's connections to it."""
        self._test.close()
        self._forget_app()
        if self._warm is not None:
            self._warm.close()
            self._warm = None
        self._stop()
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    def _forget_app(self) -> None:
        for patch in self._patches.values():
            patch.close()
        self._patches.clear()
        self._app = None

    def _ready(self, app: Celery) -> bool:
        worker = self._worker
        if worker is None or not worker.alive:
            return False
        if self._spec is None or self._spec.databases != discovery.find_databases():
            return False
        missing = app.tasks.keys() - worker.tasks - self._never_known
        return all(discovery.is_local(app.tasks[name]) for name in missing)

    def _serve(self, app: Celery, settings: Mapping[str, Any]) -> None:
        """Have a worker for ``app`` with ``settings``: the one we have, or a new one."""
        started = time.perf_counter()
        spec = self._make_spec(app, settings)
        if self._spec == replace(spec, agent=self._spec.agent if self._spec else 0) and self._ready(app):
            return
        self._stop()
        if self._failed is not None and self._failed[0] == spec:
            raise WorkerStartError(f"as before, {self._failed[1]}")
        process = self._warm or WorkerProcess(self._reaper)
        self._warm = None
        self._worker = process
        self._spec = replace(spec, agent=process.agent)
        try:
            process.start(self._spec, timeout=self._options.timeout)
        except WorkerStartError as error:
            # Every further test would wait for the same end.
            self._failed = (spec, str(error))
            self._stop()
            raise
        self._started_in = time.perf_counter() - started
        self._marks = (0, 0)
        # What a new worker has not found it never will; asking again would start one for every test.
        self._never_known = frozenset(app.tasks.keys() - process.tasks)

    def _make_spec(self, app: Celery, settings: Mapping[str, Any]) -> WorkerSpec:
        return WorkerSpec(
            app=discovery.find_app(app),
            main=app.main or "app",
            settings=discovery.portable_settings(app),
            world=self._world(app) | dict(settings),
            modules=(*discovery.find_modules(app), *self._flow_modules),
            workflows=self._takes_part,
            queues=discovery.find_queues(app),
            pool=self._options.pool,
            concurrency=self._options.concurrency,
            hostname="celery@taskservice",
            agent=0,
            exchanges=self._exchanges,
            databases=discovery.find_databases(),
            cwd=str(Path.cwd()),
            sys_path=tuple(entry or str(Path.cwd()) for entry in sys.path),
            environment={
                name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)
            },
        )

    def _prepare_workflows(self) -> bool:
        """Return whether the story has workflows that no worker before it was told of."""
        if self._stage is None or not self._stage.workflows:
            return False
        from pytest_taskservice.drivers.workflow_celery import called_modules

        # Kept for the stories to come: each change takes another worker.
        known = self._takes_part, len(self._flow_modules)
        self._takes_part = True
        self._flow_modules |= dict.fromkeys(called_modules(self._stage))
        return known != (True, len(self._flow_modules))

    def _world(self, app: Celery) -> dict[str, Any]:
        return broker_changes(app, url=self._server.url, prefix=self._prefix)

    def _listen(self) -> None:
        from celery import signals

        for signal, receiver in (
            (signals.before_task_publish, self._before_publish),
            (signals.after_task_publish, self._after_publish),
        ):
            signal.connect(receiver, weak=False)
            self._test.callback(signal.disconnect, receiver)

    def _before_publish(self, sender: Any = None, **message: Any) -> None:
        """Before a message leaves: make sure that the worker knows its task and listens to its queue."""
        worker, app = self._running(), self._app
        assert app is not None
        name = str(sender)
        if name not in worker.tasks and name in app.tasks:
            worker = self._teach(name)
        for queue in message.get("declare") or ():
            if queue.name not in worker.queues:
                worker.queues = set(worker.ask("consume", queue=queue.name)["queues"])
        # Told once it has gone out, but the worker may have it before we are told.
        self._leaves_at = celery_app.now()

    def _after_publish(self, sender: Any = None, **message: Any) -> None:
        headers = message.get("headers") or {}
        self._sent.append(
            Event(
                at=self._leaves_at,
                kind=EventKind.SENT,
                run=str(headers.get("id", "")),
                task=str(headers.get("shadow") or sender),
                attempt=int(headers.get("retries") or 0) + 1,
                detail={"queue": message.get("routing_key")},
            )
        )

    def _teach(self, name: str) -> WorkerProcess:
        """Exchange an idle worker for one that has imported the module of task ``name`` too."""
        assert self._app is not None
        worker = self._running()
        if discovery.is_local(self._app.tasks[name]):
            self._hints.append(
                f"task {name!r} is defined inside a function; the worker is another process and can "
                "only import it from module level"
            )
        elif name in self._never_known:
            self._hints.append(f"the worker has imported the module of task {name!r} and found no such task")
        elif worker.ask("settle", timeout=1.0)["idle"]:
            self._serve(self._app, self._settings)
        return self._running()

    def _running(self) -> WorkerProcess:
        assert self._worker is not None, "no test has begun"
        return self._worker

    def _free(self, worker: WorkerProcess) -> bool:
        # Only a pool of processes can be made to stop what it runs.
        if self._options.pool != "prefork":
            return bool(worker.ask("settle", timeout=_SETTLE)["idle"])
        return bool(worker.ask("clear", timeout=_CLEAR)["idle"])

    def _pool(self) -> str:
        slots = "" if self._options.pool == "solo" else f" x{self._options.concurrency}"
        return f"{self._options.pool}{slots}"

    def _held(self) -> str:
        held = self._running().ask("state")
        return "; ".join(
            f"{what}: " + ", ".join(f"{name}[{run}]" for run, name in held[key])
            for key, what in (("active", "running"), ("reserved", "waiting"), ("scheduled", "due later"))
            if held[key]
        )

    def _client(self) -> redis.Redis:
        if self._redis is None:
            import redis

            self._redis = redis.Redis.from_url(self._server.url)
        return self._redis

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None
            self._spec = None
