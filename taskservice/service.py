"""The task service: launch, await and look up runs, whatever back end runs them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

import anyio
from anyio import to_thread

from taskservice.beat import find_tasks, run_schedule
from taskservice.completion import Completions
from taskservice.errors import ConfigurationError, ServiceClosedError
from taskservice.schedules.entries import ScheduleEntry, parse_schedule
from taskservice.selection import BackendSelector, Selection
from taskservice.settings import Settings, load_settings
from taskservice.submission import AT_ONCE, LaunchOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from celery import Celery

    from taskservice.backends.base import AnyCanvas, TaskBackend, TaskFunction
    from taskservice.backends.calls_many import Calls
    from taskservice.backends.canvas.handle import CanvasHandle
    from taskservice.deadletters import DeadLetters
    from taskservice.health import QueueHealth, WorkerHealth
    from taskservice.runs import RunListener, TaskHandle
    from taskservice.submission import LaunchKeywords

__all__ = ["ServiceHealth", "TaskLauncher", "TaskService"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceHealth:
    """How the service is: its back end, why that one, and whether it could run something now.

    ``workers`` and ``queues`` are as in `BackendHealth`.
    """

    backend: str
    requested: str
    reason: str
    healthy: bool
    detail: str
    workers: tuple[WorkerHealth, ...] = ()
    queues: tuple[QueueHealth, ...] = ()


class TaskService:
    """One way to run tasks; open it with ``async with``, on asyncio or trio.

    ``TaskService(backend)`` takes a back end of your own making, `from_settings` selects one when
    it is opened. A service is opened once.
    """

    def __init__(self, backend: TaskBackend | BackendSelector) -> None:
        self._given = backend
        self._selection: Selection | None = None
        self._backend: TaskBackend | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        app: Celery | None = None,
        *,
        listener: RunListener | None = None,
    ) -> Self:
        """Return a service that selects its back end when it is opened; see `select_backend`.

        Without ``settings`` they come from the environment. ``app`` is your own Celery app; without
        it one is made of the settings. ``listener`` hears of in-process runs.
        """
        given = load_settings() if settings is None else settings
        return cls(BackendSelector(settings=given, app=app, listener=listener))

    async def __aenter__(self) -> Self:
        given = self._given
        if isinstance(given, BackendSelector):
            # Asking a broker blocks, and opening must not.
            selection = await to_thread.run_sync(given.select)
        else:
            selection = Selection(backend=given, requested=given.name, reason="handed in")
        self._backend = await selection.backend.__aenter__()
        self._selection = selection
        logger.info("task service opened on %s: %s", selection.backend.name, selection.reason)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.__aexit__(exc_type, exc, traceback)
            logger.info("task service closed on %s", backend.name)

    @property
    def backend(self) -> TaskBackend:
        """The back end in use; `ServiceClosedError` outside ``async with``."""
        if self._backend is None:
            raise ServiceClosedError("task service")

        return self._backend

    @property
    def settings(self) -> Settings | None:
        """What `from_settings` was given or found; ``None`` for a service with a back end of your own."""
        return self._given.settings if isinstance(self._given, BackendSelector) else None

    @property
    def dead_letters(self) -> DeadLetters:
        """The runs that failed for good: list, look at, requeue and drop them; see `DeadLetters`."""
        return self.backend.dead_letters

    async def launch_task(self, func: TaskFunction, /, *args: Any, **kwargs: Any) -> tuple[str, TaskHandle]:
        """Start a run of ``func(*args, **kwargs)`` and return its id and handle at once.

        For its errors see `TaskBackend.launch_task`; for a countdown and the like, `options`.
        """
        return await self._launch(func, args, kwargs, AT_ONCE)

    async def launch_many(
        self, func: TaskFunction, /, calls: Calls, *, per_message: int = 1
    ) -> list[TaskHandle]:
        """Start a run of ``func`` for each of ``calls``, in few round trips.

        See `TaskBackend.launch_many`.
        """
        handles = await self.backend.launch_many(func, calls, per_message=per_message)
        logger.info("%d runs launched", len(handles), extra={"runs": len(handles)})
        return handles

    async def launch_canvas(self, canvas: AnyCanvas) -> tuple[str, CanvasHandle]:
        """Start the runs of a chain, group, chord or map and return the id and handle of the whole.

        See `TaskBackend.launch_canvas`.
        """
        handle = await self.backend.launch_canvas(canvas)
        logger.info("canvas %s launched", handle.id, extra={"run_id": handle.id})
        return handle.id, handle

    async def launch_and_await_task(
        self, func: TaskFunction, /, *args: Any, **kwargs: Any
    ) -> tuple[str, Any]:
        """Start a run, wait for it, return its id and value, or raise as `TaskHandle.result`."""
        task_id, handle = await self.launch_task(func, *args, **kwargs)
        return task_id, await handle.result()

    def options(self, **options: Unpack[LaunchKeywords]) -> TaskLauncher:
        """Return what launches with these options, apart from the task's own keywords.

        `LaunchOptionError` for what cannot be meant; see `LaunchOptions`. It may be kept and used
        any number of times: what is relative counts from each launch.
        """
        chosen = LaunchOptions(**options)
        return TaskLauncher(partial(self._launch, options=chosen))

    def as_completed(self, handles: Iterable[TaskHandle]) -> Completions[TaskHandle]:
        """Return an async iterator over ``handles`` in the order in which their runs end.

        A failed or cancelled run comes like any other; `TaskHandle.result` raises. Waiting costs no
        thread and no task per handle. Bound it with ``anyio.fail_after``.
        """
        return Completions(handles)

    async def get_task(self, task_id: str) -> TaskHandle:
        """Return the handle of an earlier run; see `TaskBackend.get_task`."""
        return await self.backend.get_task(task_id)

    async def run_beat(
        self, schedule: Mapping[str, Mapping[str, Any]] | None = None, *, timezone: str | None = None
    ) -> None:
        """Launch by the clock until cancelled: ``schedule``, or the settings' ``beat_schedule``.

        Tasks are found by name, among those of ``@task`` and of the app; ``timezone`` is that of cron
        strings, without it the settings' own. `ScheduleError` for the first mistake, before anything is
        launched. What was due is kept in this process alone, and so is the right to launch: for workers
        there is ``taskservice beat``.
        """
        backend = self.backend
        settings = self.settings
        app = self._given.app if isinstance(self._given, BackendSelector) else None
        if schedule is None and settings is None:
            raise ConfigurationError(
                "hand run_beat() a schedule: this service has no settings to take it from"
            )

        given = schedule if schedule is not None or settings is None else settings.beat_schedule
        zone = timezone or (settings.timezone if settings else "UTC")
        entries = await to_thread.run_sync(partial(parse_schedule, given or {}, zone=zone))
        imports = settings.imports if settings else ()
        tasks = await to_thread.run_sync(partial(find_tasks, entries, imports=imports, app=app))

        async def launch(entry: ScheduleEntry) -> None:
            func = tasks[entry.name]
            await backend.launch_task(func, entry.args, entry.kwargs, options=entry.options)

        await run_schedule(entries, launch, sleep=anyio.sleep)

    async def health(self) -> ServiceHealth:
        """Return how the service is, within about a second."""
        backend = self.backend
        assert self._selection is not None
        health = await backend.health()
        return ServiceHealth(
            backend=backend.name,
            requested=self._selection.requested,
            reason=self._selection.reason,
            healthy=health.healthy,
            detail=health.detail,
            workers=health.workers,
            queues=health.queues,
        )

    async def _launch(
        self, func: TaskFunction, args: Sequence[Any], kwargs: Mapping[str, Any], options: LaunchOptions
    ) -> tuple[str, TaskHandle]:
        handle = await self.backend.launch_task(func, args, kwargs, options=options)
        logger.info("run %s launched", handle.id, extra={"run_id": handle.id})
        return handle.id, handle


class TaskLauncher:
    """A `TaskService` with options for what it launches; `TaskService.options` makes it."""

    def __init__(self, launch: Callable[..., Awaitable[tuple[str, TaskHandle]]]) -> None:
        self._launch = launch

    async def launch_task(self, func: TaskFunction, /, *args: Any, **kwargs: Any) -> tuple[str, TaskHandle]:
        """See `TaskService.launch_task`."""
        return await self._launch(func, args, kwargs)

    async def launch_and_await_task(
        self, func: TaskFunction, /, *args: Any, **kwargs: Any
    ) -> tuple[str, Any]:
        """See `TaskService.launch_and_await_task`."""
        task_id, handle = await self._launch(func, args, kwargs)
        return task_id, await handle.result()
