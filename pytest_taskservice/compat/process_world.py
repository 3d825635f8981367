"""The ``celery`` world of Celery's own fixtures: their workers are processes, on the session's Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_taskservice.compat.process_specs import Surroundings, make_spec
from pytest_taskservice.compat.process_worker import ProcessWorker
from pytest_taskservice.compat.serializers import restored
from pytest_taskservice.compat.servers import named_servers, world_settings
from pytest_taskservice.compat.window import StateWindows
from pytest_taskservice.drivers import exchanges, redirects
from pytest_taskservice.drivers.app_patch import AppPatch, pools_of
from pytest_taskservice.drivers.bounded import bounded_waits
from pytest_taskservice.drivers.unshared import Unshared
from pytest_taskservice.drivers.worker_fleet import Look
from pytest_taskservice.drivers.worker_process import WorkerProcess
from taskservice.reaper import shared_reaper

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.compat.base import CompatWorker, WorkerRequest
    from pytest_taskservice.session import HarnessSession

__all__ = ["ProcessWorld"]

_REPLACED = (
    "was given another configuration (app.conf = ...) after it was pointed at this world's Redis, so what is "
    "sent goes where that one says: change the settings it has (app.conf.update(...), or the fixture "
    "celery_config), or run this test with --taskservice-backend=celery-sim"
)


@dataclass(kw_only=True, eq=False, slots=True)
class _Opened:
    """An app that is pointed at the world, and with what."""

    app: Celery
    settings: dict[str, Any]
    exchanges: dict[str, str]
    patch: AppPatch
    servers: list[str] = field(default_factory=list)


class ProcessWorld:
    """Apps on a real Redis, each worker a process of its own."""

    name = "celery"

    def __init__(self, harness: HarnessSession) -> None:
        self._harness = harness
        self._opened: list[_Opened] = []
        self._workers: list[ProcessWorker] = []
        self._spare: WorkerProcess | None = None
        self._windows = StateWindows()
        self._started = self._stopped = 0
        self._unlisten: Callable[[], None] | None = None
        # The worker tells the test of each message that it receives.
        self._unshared = Unshared(relayed=("task_received",))
        self._hints: dict[str, None] = {}
        self._ended: dict[str, str] = {}
        """What workers that the test itself has ended leave to be told."""
        self._test = ExitStack()

    @contextmanager
    def open(self, app: Celery) -> Iterator[None]:
        """Point ``app`` at the session's Redis, and whoever opens a client to its own Redis as well."""
        server = self._harness.redis()
        settings = world_settings(app, server, self._prefix())
        patch = AppPatch(app, settings)
        opened = _Opened(
            app=app,
            settings=settings,
            patch=patch,
            # Asked before the first patch: afterwards every app seems to be meant for Redis.
            exchanges=exchanges.known_types(app),
            # Clients of others' own know no prefix, so they are kept off a server that is not ours.
            servers=named_servers(app) if server.owned else [],
        )
        forget = exchanges.teach(opened.exchanges)
        known = self._redirects(self._opened)
        new = {name: target for name, target in self._redirects([opened]).items() if name not in known}
        back = redirects.install(new)
        self._opened.append(opened)
        try:
            with (
                restored(),
                patch.applied(as_current=False),
                bounded_waits(self, timeout=self._harness.options.timeout),
            ):
                yield
                self._purge(app)
        finally:
            self._opened.remove(opened)
            forget()
            back()
            patch.close(keep=[pool for one in self._opened for pool in pools_of(one.app)])

    def look(self) -> Look:
        """Return how the workers stand."""
        found = [worker.look() for worker in list(self._workers)]
        return Look(idle=all(each.idle for each in found), seen=sum(each.seen for each in found))

    def held(self) -> str:
        """Return what the workers have, in words."""
        held = [text for worker in list(self._workers) for text in worker.held()]
        return "; ".join(held) if self._workers else "there are none"

    def serve(self, app: Any) -> bool:
        """Return whether a worker of ``app`` runs."""
        return any(worker.app is app for worker in self._workers)

    def start_worker(self, app: Celery, request: WorkerRequest) -> ProcessWorker:
        """Start a process that serves ``app``, and return once it consumes."""
        opened = next(one for one in self._opened if one.app is app)
        if opened.patch.lost:
            self._hints[f"{app!r} {_REPLACED}"] = None
        worker = ProcessWorker(
            app,
            request,
            make_spec=partial(self._spec, opened, request),
            make_process=self._take_process,
            timeout=self._harness.options.timeout,
        )
        self._workers.append(worker)
        self._started += 1
        self._windows.open(worker.ask)
        if self._unlisten is None:
            self._unlisten = self._listen()
        if self._stopped:
            # Workers come and go in this session: the next one finds Celery imported.
            self._spare = self._spare or WorkerProcess(shared_reaper())
        return worker

    def stop_worker(self, worker: CompatWorker) -> None:
        """End the process when its running tasks have ended."""
        assert isinstance(worker, ProcessWorker)
        self._stopped += 1
        self._forget(worker)
        try:
            worker.stop()
        finally:
            self._ended |= _log_of(worker)
            self._hints |= dict.fromkeys(worker.hints)

    def lasting(self) -> bool:
        """Return whether an app or a worker is open."""
        return bool(self._opened)

    def begin_test(self, name: str, *, late: bool) -> None:
        """Replace a worker that the test before has killed, and note where each one's log stands."""
        self._hints = {}
        self._test.enter_context(self._unshared.listening())
        for worker in self._workers:
            if not worker.alive:
                worker.reload()
            worker.mark()

    def end_test(self) -> None:
        """Hear of what it does no longer; what is open stays as it is."""
        self._test.close()
        self._hints, self._ended = {}, {}

    def report(self) -> dict[str, str]:
        """Return the workers' logs during this test, and what they could not be told."""
        texts = dict(self._ended)
        for worker in self._workers:
            texts |= _log_of(worker)
        hints = [hint for worker in self._workers for hint in worker.hints]
        hints += [*self._hints, *self._unshared.kept_apart()]
        return {**texts, "hint": "\n".join(dict.fromkeys(hints))}

    def describe(self) -> str:
        """Return how many workers there were, and on what."""
        server = self._harness.redis()
        plural = "" if self._started == 1 else "es"
        return f"{self._started} worker process{plural} · Redis: {server.provider} {server.version}"

    def close(self) -> None:
        """End what is left."""
        self._test.close()
        self._unshared.close()
        for worker in list(self._workers):
            self._forget(worker)
            # Whoever started it would have stopped it, had the run not been cut short.
            worker.kill()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None

    def _forget(self, worker: ProcessWorker) -> None:
        self._workers.remove(worker)
        self._windows.shut(worker.ask)

    def _prefix(self) -> str:
        return "" if self._harness.redis().owned else f"{self._harness.namespace}compat:"

    def _spec(self, opened: _Opened, request: WorkerRequest, knowledge: Any) -> Any:
        around = Surroundings(
            world=opened.settings,
            exchanges=opened.exchanges,
            redirects=self._redirects(self._opened),
        )
        return make_spec(opened.app, request, knowledge, around)

    def _redirects(self, opened: list[_Opened]) -> dict[str, str]:
        from urllib.parse import urlsplit

        ours = urlsplit(self._harness.redis().url)
        target = f"{ours.hostname}:{ours.port}"
        return {name: target for one in opened for name in one.servers if name != target}

    def _take_process(self) -> WorkerProcess:
        process = self._spare or self._harness.take_warm() or WorkerProcess(shared_reaper())
        self._spare = None
        return process

    def _purge(self, app: Celery) -> None:
        """Take what nobody has consumed out of the app's queues: the next app's may have the same names."""
        if self._workers:
            # The session's worker may be about to consume it.
            return
        with app.connection_for_write() as connection:
            for queue in list(app.amqp.queues.values()):
                queue(connection.default_channel).purge()

    def _listen(self) -> Callable[[], None]:
        from celery import signals

        def before(sender: Any = None, **_: Any) -> None:
            for worker in list(self._workers):
                worker.meet(str(sender))
                if (task := worker.app.tasks.get(str(sender))) is not None:
                    self._hints |= dict.fromkeys(self._unshared.of(task))

        signals.before_task_publish.connect(before, weak=False)

        def undo() -> None:
            signals.before_task_publish.disconnect(before)

        return undo


def _log_of(worker: ProcessWorker) -> dict[str, str]:
    return {f"worker log ({worker.hostname})": worker.log_text()}
