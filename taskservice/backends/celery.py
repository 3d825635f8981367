"""Celery back end: runs go to workers by any broker, and come back by one listener thread."""

# ruff: noqa: D102 - TaskBackend documents the contract, once

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
from anyio import to_thread
from celery.backends.base import DisabledBackend
from kombu import exceptions as kombu_exceptions
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from taskservice.backends.base import BackendCapability, BackendHealth
from taskservice.backends.calls import (
    function_name,
    own_expires,
    prepare_arguments,
    require_open,
)
from taskservice.backends.calls_many import checked_calls, prepare_calls
from taskservice.backends.canvas.eager import run_eagerly
from taskservice.backends.canvas.foreign import is_celery_canvas, number, own_canvas
from taskservice.backends.canvas.handle import CanvasHandle
from taskservice.backends.canvas.plan import Plan, plan_canvas
from taskservice.backends.canvas.remote import RemoteRuns, send_canvas
from taskservice.backends.definitions import register_definitions
from taskservice.backends.eager import EagerRuns
from taskservice.backends.handles import CeleryHandle, EagerHandle
from taskservice.backends.idempotency import KeyClaims, key_of, launch_once
from taskservice.backends.letters import MemoryLetters, StoredDeadLetters, letter_of
from taskservice.backends.letters_redis import RedisLetters, SharedLetters
from taskservice.backends.many import ManyLaunch
from taskservice.backends.overview import read_overview
from taskservice.backends.packed import register_packed
from taskservice.backends.probing import refuse_outlasting, visibility_timeout
from taskservice.backends.publisher import Publisher
from taskservice.backends.publishing import publish
from taskservice.backends.relaunch import relaunch
from taskservice.backends.results import ResultListener
from taskservice.backends.sharing import refuse_memory
from taskservice.backends.storage import Storage, locate_storage, open_storage
from taskservice.backends.templates import Message
from taskservice.errors import (
    BackendUnavailableError,
    ConfigurationError,
    TaskNotRegisteredError,
)
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.runs import TaskState, new_run_id
from taskservice.submission import (
    AT_ONCE,
    PLAIN_PLAN,
    LaunchOptions,
    LaunchPlan,
    check_visibility,
    plan_launch,
)
from taskservice.tasks import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from celery import Celery, Task

    from taskservice.backends.base import AnyCanvas, TaskFunction
    from taskservice.backends.calls_many import Calls
    from taskservice.deadletters import DeadLetter, DeadLetters
    from taskservice.runs import TaskHandle
    from taskservice.settings import Settings

__all__ = ["CeleryBackend"]

CAPABILITIES: Final = frozenset(
    {
        BackendCapability.BACKGROUND,
        BackendCapability.COUNTDOWN,
        BackendCapability.EXPIRES,
        BackendCapability.PRIORITIES,
        BackendCapability.QUEUES,
        BackendCapability.CANCEL_WAITING,
        BackendCapability.CANCEL_RUNNING,
        BackendCapability.TERMINATE,
        BackendCapability.DURABLE,
    }
)
EAGER_CAPABILITIES: Final = frozenset({BackendCapability.KNOWS_RUNS})
PUBLISHERS: Final = 8
PROBE_SECONDS: Final = 1.0
KEY_SECONDS: Final = 86400.0  # as in the settings
# kombu's error for a pipeline that broke, which its stubs do not know yet.
_BATCH_ERROR: type[Exception] = getattr(kombu_exceptions, "BatchPublishError", OperationalError)
_UNREACHABLE: Final = (OperationalError, ConnectionError, RedisError, _BATCH_ERROR)
DEAD_LETTER_COUNT: Final = 10_000
DEAD_LETTER_SECONDS: Final = 604_800.0
PICKLES: Final = frozenset({"pickle", "application/x-python-serialize"})


class CeleryBackend:
    """Runs tasks on the workers of ``app``.

    An app with ``task_always_eager`` runs them before `launch_task` returns, in a thread, and keeps
    the last ``eager_results``. ``settings`` say where the service keeps its own data; without them it is
    beside the app's results, or on its broker.

    `cancel` revokes a run that waits; a worker must be up to hear of it, and one that starts later does
    not know.

    ``attempts`` comes from the stored result: exact with ``result_extended``, which `create_app`
    sets, otherwise 1 from the start on.
    """

    name = "celery"

    def __init__(self, app: Celery, *, settings: Settings | None = None, eager_results: int = 1000) -> None:
        _refuse_pickle(app)
        refuse_memory(app, settings)
        register_packed(app)
        if settings is not None and settings.traces:
            from taskservice.telemetry.traces import instrument

            instrument()
        locate_storage(app, settings)
        self._app = app
        self._settings = settings
        self._limit = PAYLOAD_LIMIT if settings is None else settings.payload_limit
        self._key_seconds = KEY_SECONDS if settings is None else settings.idempotency_expires.total_seconds()
        self._eager = EagerRuns(limit=eager_results) if app.conf.task_always_eager else None
        self._letters = _memory_letters(settings)
        self._storage: Storage | None = None
        self._listener: ResultListener | None = None
        self._claims: KeyClaims | None = None
        self._publisher: Publisher | None = None
        self._open = False

    @property
    def capabilities(self) -> frozenset[BackendCapability]:
        return CAPABILITIES if self._eager is None else EAGER_CAPABILITIES

    @property
    def dead_letters(self) -> DeadLetters:
        if self._eager is not None:
            return StoredDeadLetters(self._letters, relaunch=self._run_again, check_open=self._require_open)

        if self._storage is None:
            self._storage = open_storage(self._app, "dead letters")
        store = SharedLetters(RedisLetters(self._storage))
        return StoredDeadLetters(store, relaunch=self._relaunch, check_open=self._require_open)

    async def __aenter__(self) -> Self:
        self._publishers = anyio.CapacityLimiter(PUBLISHERS)
        self._header_publisher = anyio.CapacityLimiter(1)
        if self._eager is not None:
            self._eager.open()
        else:
            # Celery has a result backend per thread; the listener and all handles share this one.
            self._results = self._app.backend
            self._listener = ResultListener(self._results)
            self._publisher = Publisher(self._app)
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def launch_task(
        self,
        func: TaskFunction,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: LaunchOptions = AT_ONCE,
    ) -> TaskHandle:
        require_open(self._open, "Celery back end")
        task = self._resolve(func)
        positional, named = prepare_arguments(func, args, kwargs or {}, limit=self._limit)
        plan = plan_launch(options, expires=own_expires(task))
        run_id = new_run_id()

        key = key_of(func, positional, named, options)
        if self._eager is not None:
            return await self._run_eagerly(task, run_id, positional, named, plan, key=key)

        if plan.delay > 0 and (visible := visibility_timeout(self._app)) is not None:
            check_visibility(plan, visible)
        deliver = partial(self._deliver, task, Message(run_id, positional, named), plan)
        if key is None:
            await deliver()
        else:
            owners = await self._once({key: run_id}, lambda _: deliver(), delay=plan.delay)
            run_id = owners[key]
        return self._handle(run_id, task.name)

    async def _deliver(self, task: Task[..., Any], message: Message, plan: LaunchPlan) -> None:
        if plan != PLAIN_PLAN or not await self._publish_plainly(task, message):
            args, kwargs = message.args, message.kwargs
            await self._send(partial(publish, self._app, task, message.id, args, kwargs, plan=plan))

    async def _publish_plainly(self, task: Task[..., Any], message: Message) -> bool:
        # A run that a Celery task launches belongs to that one, which its message tells.
        if self._publisher is None or self._app.current_worker_task is not None:
            return False

        return await self._publisher.publish(task, message)

    async def _send(self, send: Callable[[], object]) -> None:
        try:
            await to_thread.run_sync(send, limiter=self._publishers)
        except _UNREACHABLE as error:
            raise BackendUnavailableError("celery", str(error)) from error

    async def _once(
        self,
        wanted: Mapping[str, str],
        send: Callable[[frozenset[str]], Awaitable[object]],
        *,
        delay: float = 0.0,
    ) -> dict[str, str]:
        if self._claims is None:
            storage = open_storage(self._app, "idempotency keys")
            self._claims = KeyClaims(storage, self._key_seconds)
        try:
            return await launch_once(self._claims, wanted, send, delay=delay)
        except RedisError as error:
            raise BackendUnavailableError("celery", f"idempotency keys: {error}") from error

    async def launch_many(
        self, func: TaskFunction, calls: Calls, *, per_message: int = 1
    ) -> list[TaskHandle]:
        require_open(self._open, "Celery back end")
        launch = ManyLaunch(self._app, self._resolve(func), per_message=per_message)
        given = checked_calls(calls)
        prepared = await to_thread.run_sync(partial(prepare_calls, func, given, limit=self._limit))
        keys = [key_of(func, args, kwargs) for args, kwargs in prepared]
        if self._eager is not None:
            plan = plan_launch(AT_ONCE)
            return [
                await self._run_eagerly(launch.task, new_run_id(), args, kwargs, plan, key=key)
                for (args, kwargs), key in zip(prepared, keys, strict=True)
            ]

        launch.add(prepared)
        run_ids = launch.ids
        if any(keys):
            run_ids = await self._send_once(launch, keys)
        else:
            await self._send(launch.send)
        return [self._handle(run_id, launch.task.name, launch.pack_of(run_id)) for run_id in run_ids]

    async def _send_once(self, launch: ManyLaunch, keys: Sequence[str | None]) -> list[str]:
        wanted: dict[str, str] = {}
        for run_id, key in zip(launch.ids, keys, strict=True):
            if key is not None:
                wanted.setdefault(key, run_id)

        keyless = {run_id for run_id, key in zip(launch.ids, keys, strict=True) if key is None}
        await self._send(partial(launch.send, keyless))
        owners = await self._once(wanted, lambda mine: self._send(partial(launch.send, mine)))
        return [run_id if key is None else owners[key] for run_id, key in zip(launch.ids, keys, strict=True)]

    async def _run_eagerly(  # noqa: PLR0913 - one run, and all of it
        self,
        task: Task[..., Any],
        run_id: str,
        args: list[Any],
        kwargs: dict[str, Any],
        plan: LaunchPlan,
        *,
        key: str | None = None,
    ) -> TaskHandle:
        assert self._eager is not None
        send = partial(publish, self._app, task, run_id, args, kwargs, plan=plan)
        ran = await self._eager.run_once(key, run_id, send)
        if ran != run_id:
            return EagerHandle(ran, self._eager)

        outcome = self._eager.get(run_id)
        if outcome.state is TaskState.FAILURE and outcome.error is not None:
            attempts = max(1, outcome.attempts)
            letter = letter_of(
                task,
                outcome.error,
                run_id=run_id,
                name=task.name,
                args=args,
                kwargs=kwargs,
                attempts=attempts,
            )
            self._letters.add(letter, task)
        return EagerHandle(run_id, self._eager)

    async def _run_again(self, letter: DeadLetter) -> TaskHandle:
        task = self._letters.again(letter)
        return await self._run_eagerly(
            task, letter.id, list(letter.args), dict(letter.kwargs), plan_launch(AT_ONCE)
        )

    async def _relaunch(self, letter: DeadLetter) -> TaskHandle:
        await self._send(partial(relaunch, self._app, letter))
        return self._handle(letter.id, letter.task)

    def _require_open(self) -> None:
        require_open(self._open, "Celery back end")

    async def launch_canvas(self, canvas: AnyCanvas) -> CanvasHandle:
        require_open(self._open, "Celery back end")
        plan, sent = await to_thread.run_sync(self._plan_canvas, canvas)
        tasks = {run.id: self._resolve(run.func) for run in plan.runs}
        if self._eager is not None:
            return CanvasHandle(plan, await run_eagerly(self._app, plan, tasks, self._eager))

        send = partial(send_canvas, self._app, plan, tasks, whole=sent)
        # Each header takes more than one connection of the pool; two at a time could starve each other.
        limiter = self._header_publisher if plan.headers else self._publishers
        try:
            await to_thread.run_sync(send, limiter=limiter)
        except _UNREACHABLE as error:
            raise BackendUnavailableError("celery", str(error)) from error
        handles = [self._handle(run.id, run.name) for run in plan.runs]
        return CanvasHandle(plan, RemoteRuns(self._app, handles))

    def _plan_canvas(self, canvas: AnyCanvas) -> tuple[Plan, Any]:
        # An eager app's canvas would wait for itself; ours plays it.
        if self._eager is not None or not is_celery_canvas(canvas):
            return plan_canvas(own_canvas(canvas), limit=self._limit), None

        numbered = number(canvas, self._app)
        return plan_canvas(numbered.canvas, limit=self._limit, ids=numbered.ids), numbered.sent

    async def get_task(self, task_id: str) -> TaskHandle:
        require_open(self._open, "Celery back end")
        if self._eager is not None:
            self._eager.get(task_id)
            return EagerHandle(task_id, self._eager)

        return self._handle(task_id, "unknown task")

    async def health(self) -> BackendHealth:
        if self._eager is not None:
            return BackendHealth(healthy=True, detail="eager: runs in this process")

        read = partial(read_overview, self._app, self._settings, seconds=PROBE_SECONDS)
        overview = await to_thread.run_sync(read, abandon_on_cancel=True)
        return overview.health()

    async def close(self) -> None:
        self._open = False
        if self._storage is not None:
            self._storage.close()
        if self._eager is not None:
            self._eager.close()
        with anyio.CancelScope(shield=True):
            if self._publisher is not None:
                await to_thread.run_sync(self._publisher.close)
            if self._listener is not None:
                await to_thread.run_sync(self._listener.close)

    def _handle(self, run_id: str, task_name: str, pack_id: str | None = None) -> CeleryHandle:
        assert self._listener is not None
        return CeleryHandle(
            run_id,
            task_name,
            app=self._app,
            results=None if isinstance(self._results, DisabledBackend) else self._results,
            listener=self._listener,
            pack_id=pack_id,
        )

    def _resolve(self, func: TaskFunction) -> Task[..., Any]:
        if isinstance(func, TaskDefinition):
            register_definitions(self._app, [func])

        name = function_name(func)
        found = self._app.tasks.get(name)
        if found is None:
            known = tuple(sorted(key for key in self._app.tasks if not key.startswith("celery.")))
            raise TaskNotRegisteredError(name, known)
        task: Task[..., Any] = found
        if self._eager is None:
            refuse_outlasting(self._app, [task])
        return task


def _memory_letters(settings: Settings | None) -> MemoryLetters:
    if settings is None:
        return MemoryLetters(count=DEAD_LETTER_COUNT, seconds=DEAD_LETTER_SECONDS)

    return MemoryLetters(
        count=settings.dead_letter_count, seconds=settings.dead_letter_retention.total_seconds()
    )


def _refuse_pickle(app: Celery) -> None:
    conf = app.conf
    for setting in ("task_serializer", "result_serializer"):
        if conf[setting] in PICKLES:
            raise ConfigurationError(f"pickle is refused: set {setting} to 'json'")

    for setting in ("accept_content", "result_accept_content"):
        if PICKLES.intersection(conf[setting] or ()):
            raise ConfigurationError(
                f"pickle is refused: take it out of {setting}, "
                "for it lets whoever reaches the broker run code here"
            )
