"""The ``anyio`` world: tasks in this process, on asyncio or on trio, through the task service."""

from __future__ import annotations

import sys
import time
from asyncio import SelectorEventLoop
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pytest_taskservice.drivers.base import CanvasRuns, Capability, CapabilityError, Outcome, TaskCall
from pytest_taskservice.drivers.staging import start_of
from pytest_taskservice.errors import HarnessError, HarnessTimeoutError
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.scenario.behaviour import SYNTHETIC
from taskservice.errors import RunFailedError
from taskservice.texts import text_of

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.drivers.base import FaultControl, Stage, WorkflowControl
    from pytest_taskservice.simulator.loops.stage import Stage as LoopStage
    from taskservice import BlockingTaskService, RunEvent, TaskHandle
    from taskservice.backends.anyio import AnyIOBackend
    from taskservice.backends.base import TaskBackend
    from taskservice.canvas import Signature

__all__ = ["AnyIODriver"]

_CANNOT = {
    Capability.CELERY_MESSAGES: "in-process tasks are launched by task_service, not by delay()",
    Capability.TIME_LIMITS: "a plain function runs in a thread, which nothing can stop",
    Capability.PRIORITIES: "in-process tasks have no queue",
    Capability.PROCESSES: "in-process tasks have one process",
    Capability.WORKERS: "in-process tasks have no workers: nothing but the process bounds how many run",
    Capability.PROCESS_FAULTS: "in-process tasks have no process but the test's own",
    Capability.CONNECTION_FAULTS: "in-process tasks connect to nothing",
    Capability.DELIVERY_FAULTS: "in-process tasks are not delivered: they have no messages",
    Capability.STRIKES: "in-process tasks end with their process, and that is the test's own",
    Capability.SETTINGS: "in-process tasks read no settings of Celery",
    Capability.AMQP: "in-process tasks have no broker",
}


_REAL = "the test is marked clock='real'"


class AnyIODriver:
    """An event loop in a thread for tests without one; an async test brings its own. Both in virtual time.

    ``start`` is the wall clock's first instant, in seconds since the Unix epoch; ``events`` bounds what one
    wait may bring.
    """

    name = "anyio"
    capabilities = frozenset(Capability) - _CANNOT.keys()

    def __init__(
        self,
        *,
        loop: Literal["asyncio", "trio"],
        seed: int = 0,
        start: float = 1_767_225_600.0,
        events: int = 1_000_000,
    ) -> None:
        self.refused: list[CapabilityError] = []
        self._loop = loop
        self._events_at_most = events
        self.seed = seed
        """The seed of the next test."""
        self._start = start
        self._loops: LoopStage | None = None
        self._stage: Stage | None = None
        self._workflows: WorkflowControl | None = None
        self._why_real = _REAL
        self._app: Celery | None = None
        self._test = ExitStack()
        self._portal: BlockingPortal | None = None
        self._backend: AnyIOBackend | None = None
        self._handles: dict[str, TaskHandle] = {}
        self._labels: dict[str, str] = {}
        self._entries: dict[str, str] = {}
        self._events: list[Event] = []
        self._chance = Random(seed)  # noqa: S311 - a test's chance, not a secret

    def cannot(self, capability: Capability) -> str | None:
        """Return why in-process tasks cannot show ``capability``."""
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
        """Keep ``app`` from sending messages; its settings mean nothing here."""
        self._app = app
        self._events, self._handles, self._labels, self.refused = [], {}, {}, []
        self._entries = {}
        self._chance = Random(f"together-{self.seed}")  # noqa: S311 - a test's chance, not a secret
        self._why_real = _REAL if real_time else _early_loop()
        if not self._why_real:
            from pytest_taskservice.simulator.loops.seats import Limits
            from pytest_taskservice.simulator.loops.world import open_stage
            from pytest_taskservice.simulator.wallclock import travelled_to

            limits = Limits(moves=self._events_at_most)
            told = start_of(self._stage) or travelled_to()
            start = self._start if told is None else told.timestamp()
            stage = open_stage(seed=self.seed, start=start, limits=limits)
            self._loops = self._test.enter_context(stage)
        if app is not None:
            from pytest_taskservice.drivers.app_patch import AppPatch, memory_changes
            from pytest_taskservice.drivers.celery_app import guarded
            from pytest_taskservice.drivers.exits import contained_exits

            self._test.enter_context(contained_exits())
            self._test.enter_context(AppPatch(app, memory_changes(app)).applied())
            refuse = partial(self._refuse, Capability.CELERY_MESSAGES)
            self._test.enter_context(guarded(app, on_apply=lambda *_: refuse(), on_send=refuse))
        if self._stage is not None and self._stage.beat:
            self._start_beat(self._stage)

    def clock(self) -> Clock:
        """Return the clock of the test's event loops."""
        from pytest_taskservice.clock import Clock

        if self._loops is None:
            raise HarnessError(f"no virtual time: {self._why_real}")
        return Clock(self._loops)

    def task_backend(self) -> TaskBackend:
        """Return a backend for the event loop that opens it."""
        return self._make_backend()

    def blocking_service(self) -> BlockingTaskService:
        """Return a service with an event loop of its own."""
        from taskservice import BlockingTaskService

        return BlockingTaskService(self.task_backend(), loop=self._loop)

    def workflows(self) -> WorkflowControl:
        """Return control over workflow runs on the driver's own event loop."""
        if self._workflows is None:
            from pytest_taskservice.drivers.workflow_anyio import open_in_loop

            portal, _ = self._open()
            self._workflows = open_in_loop(
                portal, self._make_backend(), self._stage, tell=self._events.append, held=self._test
            )
        return self._workflows

    def launch(self, call: TaskCall) -> str:
        """Start one run on the driver's own event loop."""
        from pytest_taskservice.drivers import celery_app
        from taskservice.submission import LaunchOptions

        for capability in celery_app.required(call):
            if capability in _CANNOT:
                self._refuse(capability)
        if call.expires is not None and call.expires <= (call.countdown or 0.0):
            self._refuse(Capability.EXPIRES, "the task service takes no run that expires before it may begin")
        assert self._app is not None, "a call names a task of an app"
        portal, backend = self._open()
        launch = partial(
            backend.launch_task,
            celery_app.find_task(self._app, call.task),
            call.args,
            call.kwargs,
            options=LaunchOptions(countdown=call.countdown, expires=call.expires),
        )
        handle = portal.call(launch)
        self._keep(handle, call)
        return handle.id

    def launch_canvas(self, kind: str, members: tuple[TaskCall, ...], body: TaskCall | None) -> CanvasRuns:
        """Start the task service's own canvas."""
        from taskservice import chain, chord, group

        parts = [self._signature(call) for call in members]
        portal, backend = self._open()
        if kind == "chord":
            assert body is not None, "a chord has a body"
            made: Any = chord(group(*parts), self._signature(body))
        else:
            made = chain(*parts) if kind == "chain" else group(*parts)
        handle = portal.call(backend.launch_canvas, made)
        calls = (*members, *([body] if body is not None else ()))
        for found, call in zip(handle.runs, calls, strict=True):
            self._keep(found, call)
        runs = tuple(found.id for found in handle.runs)
        if kind == "group":
            return CanvasRuns(ends=runs)
        return CanvasRuns(ends=runs[-1:], members=runs[:-1])

    def faults(self) -> FaultControl:
        """Refuse."""
        self._refuse(Capability.PROCESS_FAULTS)

    def at_once(self, acts: Sequence[Callable[[], None]]) -> None:
        """Do all of ``acts`` one behind the other, in an order that the seed draws."""
        order = list(acts)
        self._chance.shuffle(order)
        for act in order:
            act()

    def outcome(self, run_id: str) -> Outcome:
        """Return what the handle says."""
        portal, _ = self._open()
        return portal.call(_outcome, self._handles[run_id])

    def revoke(self, run_id: str) -> None:
        """Cancel the run."""
        portal, _ = self._open()
        portal.call(self._handles[run_id].cancel)

    def settle(self, *, timeout: float) -> None:
        """Wait until every run launched by name has ended."""
        portal, _ = self._open()
        now = time.monotonic if self._loops is None else self._loops.monotonic
        deadline = now() + timeout
        # The beat may launch more of them meanwhile.
        for run_id, handle in list(self._handles.items()):
            if not portal.call(_ends, handle, max(0.0, deadline - now())):
                name = self._labels.get(run_id, "run")
                raise HarnessTimeoutError(f"not settled within {timeout:g} s: {name}[{run_id}]")

    def log(self) -> EventLog:
        """Return what the backend told."""
        return EventLog(self._labelled(event) for event in self._events)

    def reset(self) -> None:
        """Cancel what runs, end the event loop, let the app send again."""
        self._test.close()
        self._portal = self._backend = self._stage = self._loops = self._workflows = None

    def describe(self) -> str:
        """Return what in-process tasks cannot show."""
        return f"cannot show {', '.join(sorted(_CANNOT))}"

    def report(self) -> dict[str, str]:
        """Return nothing: there is no second process."""
        return {}

    def close(self) -> None:
        """End the event loop."""
        self.reset()

    def _keep(self, handle: TaskHandle, call: TaskCall, entry: str = "") -> None:
        self._handles[handle.id] = handle
        if call.label:
            self._labels[handle.id] = call.label
        if entry:
            self._entries[handle.id] = entry

    def _labelled(self, event: Event) -> Event:
        # Only now: a run may have started before its launch came back with the id.
        entry = self._entries.get(event.run) if event.kind is EventKind.SENT else None
        detail = {**event.detail, "entry": entry} if entry else event.detail
        return replace(event, task=self._labels.get(event.run, event.task), detail=detail)

    def _signature(self, call: TaskCall) -> Signature:
        from pytest_taskservice.drivers import celery_app
        from taskservice.canvas import Signature
        from taskservice.submission import LaunchOptions

        for capability in celery_app.required(call):
            if capability in _CANNOT:
                self._refuse(capability)
        assert self._app is not None, "a call names a task of an app"
        return Signature(
            func=celery_app.find_task(self._app, call.task),
            args=call.args,
            kwargs=call.kwargs,
            # A synthetic task is told how to behave; what came before it is not its business.
            immutable=call.task == SYNTHETIC,
            options=LaunchOptions(countdown=call.countdown, expires=call.expires),
        )

    def _start_beat(self, stage: Stage) -> None:
        """Have the beat of a story launch what is due, in the driver's own event loop."""
        from pytest_taskservice.drivers.anyio_beat import beat_of

        portal, backend = self._open()
        assert self._app is not None, "a beat launches tasks of an app"
        portal.start_task_soon(beat_of(stage, self._app, backend, keep=self._keep))

    def _open(self) -> tuple[BlockingPortal, AnyIOBackend]:
        if self._portal is None or self._backend is None:
            from anyio.from_thread import start_blocking_portal

            backend = self._make_backend()
            portal = self._test.enter_context(start_blocking_portal(self._loop))
            self._test.enter_context(portal.wrap_async_context_manager(backend))
            self._portal, self._backend = portal, backend
        return self._portal, self._backend

    def _make_backend(self) -> AnyIOBackend:
        from taskservice.backends.anyio import AnyIOBackend

        backend = AnyIOBackend(listener=self._hear, grace=0.0)
        for name in ("launch_task", "launch_many", "launch_canvas"):
            setattr(backend, name, self._refusing(getattr(backend, name)))
        return backend

    def _refusing(self, launch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        from taskservice.errors import LaunchOptionError

        async def launch_or_refuse(*args: Any, **kwargs: Any) -> Any:
            try:
                return await launch(*args, **kwargs)
            except LaunchOptionError as error:
                # The task asks for what no thread can be given; that is no failure of the test.
                if error.option == "soft_time_limit":
                    self._refuse(Capability.TIME_LIMITS)
                raise

        return launch_or_refuse

    def _refuse(self, capability: Capability, reason: str = "") -> NoReturn:
        error = CapabilityError(self.name, capability, reason or _CANNOT[capability])
        self.refused.append(error)
        raise error

    def _hear(self, event: RunEvent) -> None:
        self._events.append(
            Event(
                at=event.at,
                kind=EventKind(event.kind),
                run=event.run,
                task=event.task,
                attempt=max(1, event.attempt),
                detail={"note": event.detail} if event.detail else {},
            )
        )


async def _outcome(handle: TaskHandle) -> Outcome:
    status, attempts = await handle.status(), await handle.attempts()
    error = await handle.exception() if status == "FAILURE" else None
    if error is not None:
        # By its own name, which could not be raised here.
        name = error.type_name if isinstance(error, RunFailedError) else type(error).__name__
        text = error.message if isinstance(error, RunFailedError) else text_of(error)
        return Outcome(status=status, error=name, message=text, attempts=attempts)
    result = await handle.result(timeout=0) if status == "SUCCESS" else None
    return Outcome(status=status, result=result, attempts=attempts)


async def _ends(handle: TaskHandle, seconds: float) -> bool:
    from taskservice.errors import ResultTimeoutError

    try:
        await handle.result(timeout=seconds)
    except ResultTimeoutError:
        return False
    except Exception:  # noqa: BLE001 - how it ended is asked elsewhere
        return True
    return True


def _early_loop() -> str:
    """Return why the test's event loop is in real time, if AnyIO's plugin made it before the world."""
    plugin: Any = sys.modules.get("anyio.pytest_plugin")
    runner = getattr(plugin, "_current_runner", None)
    # asyncio's own is in virtual time as soon as it runs.
    if runner is None or (hasattr(runner, "get_loop") and type(runner.get_loop()) is SelectorEventLoop):
        return ""
    return (
        "the test's event loop was made before its world, for an async fixture of a wider scope: "
        "give that fixture the scope of a function"
    )
