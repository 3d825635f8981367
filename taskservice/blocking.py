"""The task service for code without an event loop: the same service, behind one portal."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from anyio.from_thread import start_blocking_portal

from taskservice.completion import Completions
from taskservice.errors import ServiceClosedError
from taskservice.selection import BackendSelector
from taskservice.service import ServiceHealth, TaskLauncher, TaskService
from taskservice.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from anyio.from_thread import BlockingPortal
    from celery import Celery

    from taskservice.backends.base import AnyCanvas, TaskBackend, TaskFunction
    from taskservice.backends.calls_many import Calls
    from taskservice.backends.canvas.handle import CanvasHandle
    from taskservice.deadletters import DeadLetter, DeadLetters
    from taskservice.runs import RunListener, RunWatcher, TaskHandle, TaskState
    from taskservice.submission import LaunchKeywords

__all__ = [
    "BlockingCanvasHandle",
    "BlockingDeadLetters",
    "BlockingTaskHandle",
    "BlockingTaskLauncher",
    "BlockingTaskService",
]

LoopName = Literal["asyncio", "trio"]


class BlockingTaskHandle:
    """A `TaskHandle` whose methods block the calling thread instead of being awaited."""

    def __init__(self, handle: TaskHandle, portal: BlockingPortal) -> None:
        self._handle = handle
        self._portal = portal

    @property
    def id(self) -> str:
        """The run's id."""
        return self._handle.id

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        """See `TaskHandle.watch`; for the service's own event loop, not for threads."""
        return self._handle.watch(watcher)

    def status(self) -> TaskState:
        """See `TaskHandle.status`."""
        return self._portal.call(self._handle.status)

    def result(self, timeout: float | None = None) -> Any:
        """See `TaskHandle.result`."""
        return self._portal.call(self._handle.result, timeout)

    def exception(self) -> BaseException | None:
        """See `TaskHandle.exception`."""
        return self._portal.call(self._handle.exception)

    def ready(self) -> bool:
        """See `TaskHandle.ready`."""
        return self._portal.call(self._handle.ready)

    def cancel(self, *, terminate: bool = False) -> bool:
        """See `TaskHandle.cancel`."""
        return self._portal.call(partial(self._handle.cancel, terminate=terminate))

    def attempts(self) -> int:
        """See `TaskHandle.attempts`."""
        return self._portal.call(self._handle.attempts)


class BlockingCanvasHandle(BlockingTaskHandle):
    """A `CanvasHandle` whose methods block."""

    def __init__(self, handle: CanvasHandle, portal: BlockingPortal) -> None:
        super().__init__(handle, portal)
        self._runs = [BlockingTaskHandle(each, portal) for each in handle.runs]

    @property
    def runs(self) -> list[BlockingTaskHandle]:
        """See `CanvasHandle.runs`."""
        return list(self._runs)


class BlockingTaskLauncher:
    """A `TaskLauncher` whose methods block; `BlockingTaskService.options` makes it."""

    def __init__(self, launcher: TaskLauncher, portal: BlockingPortal) -> None:
        self._launcher = launcher
        self._portal = portal

    def launch_task(self, func: TaskFunction, /, *args: Any, **kwargs: Any) -> tuple[str, BlockingTaskHandle]:
        """See `TaskService.launch_task`."""
        launch = partial(self._launcher.launch_task, func, *args, **kwargs)
        task_id, handle = self._portal.call(launch)
        return task_id, BlockingTaskHandle(handle, self._portal)

    def launch_and_await_task(self, func: TaskFunction, /, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        """See `TaskService.launch_and_await_task`."""
        launch = partial(self._launcher.launch_and_await_task, func, *args, **kwargs)
        task_id, value = self._portal.call(launch)
        return task_id, value


class BlockingDeadLetters:
    """`DeadLetters` whose methods block; `BlockingTaskService.dead_letters` has it."""

    def __init__(self, letters: DeadLetters, portal: BlockingPortal) -> None:
        self._letters = letters
        self._portal = portal

    def get(self, run_id: str) -> DeadLetter:
        """See `DeadLetters.get`."""
        return self._portal.call(self._letters.get, run_id)

    def requeue(self, run_id: str) -> BlockingTaskHandle:
        """See `DeadLetters.requeue`."""
        return BlockingTaskHandle(self._portal.call(self._letters.requeue, run_id), self._portal)

    def drop(self, run_id: str) -> bool:
        """See `DeadLetters.drop`."""
        return self._portal.call(self._letters.drop, run_id)

    def count(self) -> int:
        """See `DeadLetters.count`."""
        return self._portal.call(self._letters.count)

    def list(self, *, limit: int = 100, task: str | None = None) -> list[DeadLetter]:
        """See `DeadLetters.list`."""
        return self._portal.call(partial(self._letters.list, limit=limit, task=task))


class BlockingTaskService:
    """A `TaskService` for threads; open it with ``with``. Any number of threads may share it.

    ``loop`` is the event loop that runs behind it, ``asyncio`` or ``trio``, in a thread of its own.
    """

    def __init__(self, backend: TaskBackend | BackendSelector, *, loop: LoopName = "asyncio") -> None:
        self._service = TaskService(backend)
        self._loop = loop
        self._portal: BlockingPortal | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        app: Celery | None = None,
        *,
        listener: RunListener | None = None,
        loop: LoopName = "asyncio",
    ) -> Self:
        """See `TaskService.from_settings`."""
        given = load_settings() if settings is None else settings
        return cls(BackendSelector(settings=given, app=app, listener=listener), loop=loop)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(self._loop))
            stack.enter_context(portal.wrap_async_context_manager(self._service))
            self._stack = stack.pop_all()
        self._portal = portal
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal = None
        self._stack.__exit__(exc_type, exc, traceback)

    @property
    def dead_letters(self) -> BlockingDeadLetters:
        """See `TaskService.dead_letters`."""
        portal = self._opened()
        return BlockingDeadLetters(self._service.dead_letters, portal)

    def launch_task(self, func: TaskFunction, /, *args: Any, **kwargs: Any) -> tuple[str, BlockingTaskHandle]:
        """See `TaskService.launch_task`."""
        portal = self._opened()
        launch = partial(self._service.launch_task, func, *args, **kwargs)
        task_id, handle = portal.call(launch)
        return task_id, BlockingTaskHandle(handle, portal)

    def launch_many(
        self, func: TaskFunction, /, calls: Calls, *, per_message: int = 1
    ) -> list[BlockingTaskHandle]:
        """See `TaskService.launch_many`."""
        portal = self._opened()
        launch = partial(self._service.launch_many, func, calls, per_message=per_message)
        return [BlockingTaskHandle(handle, portal) for handle in portal.call(launch)]

    def launch_canvas(self, canvas: AnyCanvas) -> tuple[str, BlockingCanvasHandle]:
        """See `TaskService.launch_canvas`."""
        portal = self._opened()
        canvas_id, handle = portal.call(self._service.launch_canvas, canvas)
        return canvas_id, BlockingCanvasHandle(handle, portal)

    def launch_and_await_task(self, func: TaskFunction, /, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        """See `TaskService.launch_and_await_task`."""
        launch = partial(self._service.launch_and_await_task, func, *args, **kwargs)
        task_id, value = self._opened().call(launch)
        return task_id, value

    def options(self, **options: Unpack[LaunchKeywords]) -> BlockingTaskLauncher:
        """See `TaskService.options`."""
        return BlockingTaskLauncher(self._service.options(**options), self._opened())

    def as_completed(self, handles: Iterable[BlockingTaskHandle]) -> Iterator[BlockingTaskHandle]:
        """Yield ``handles`` in the order in which their runs end; see `TaskService.as_completed`."""
        portal = self._opened()
        completions = Completions(handles)
        try:
            while (handle := portal.call(completions.next)) is not None:
                yield handle
        finally:
            if self._portal is portal:
                portal.call(completions.close)

    def get_task(self, task_id: str) -> BlockingTaskHandle:
        """See `TaskService.get_task`."""
        portal = self._opened()
        return BlockingTaskHandle(portal.call(self._service.get_task, task_id), portal)

    def health(self) -> ServiceHealth:
        """See `TaskService.health`."""
        return self._opened().call(self._service.health)

    def _opened(self) -> BlockingPortal:
        if self._portal is None:
            raise ServiceClosedError("blocking task service")

        return self._portal
