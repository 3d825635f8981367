"""The ``celery-eager`` world: Celery's eager mode, which runs a task inside the call that sends it.

It shows arguments, results, errors and retries. It has no clock, no queue and no second process, so
whatever needs one is refused rather than played wrongly.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_taskservice.drivers import celery_app
from pytest_taskservice.drivers.app_patch import AppPatch, finalize, memory_changes
from pytest_taskservice.drivers.base import CanvasRuns, Capability, CapabilityError, Outcome, TaskCall
from pytest_taskservice.drivers.canvases import send_canvas
from pytest_taskservice.drivers.eager_verdicts import asked_for_verdicts
from pytest_taskservice.drivers.eager_words import EagerWords
from pytest_taskservice.drivers.exits import contained_exits
from pytest_taskservice.errors import HarnessTimeoutError
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.simulator.overdue import OverdueError, ended_after, line_of
from taskservice.texts import text_of

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.drivers.base import FaultControl, Stage, WorkflowControl
    from taskservice import BlockingTaskService
    from taskservice.backends.base import TaskBackend

__all__ = ["CeleryEagerDriver"]

_CANNOT = {
    Capability.CELERY_MESSAGES: "eager mode does not run what send_task() sends by name",
    Capability.CONCURRENCY: "eager mode runs one task at a time, inside the call",
    Capability.BACKOFF: "eager mode retries at once",
    Capability.ETA: "eager mode runs the task now, whatever its countdown or eta",
    Capability.EXPIRES: "eager mode has no queue to expire in",
    Capability.TIME_LIMITS: "eager mode has no process to stop",
    Capability.REVOKE: "an eager task has ended before it could be revoked",
    Capability.PRIORITIES: "eager mode has no queue",
    Capability.PROCESSES: "eager mode has one process",
    Capability.CLOCK: "eager mode has nothing that happens later",
    Capability.WORKERS: "eager mode runs a task inside the call: there is no worker",
    Capability.BEAT: "eager mode has no clock that a beat could follow",
    Capability.PROCESS_FAULTS: "eager mode has no process but the test's own",
    Capability.CONNECTION_FAULTS: "eager mode has no connection to anything",
    Capability.DELIVERY_FAULTS: "eager mode delivers nothing: it has no messages",
    Capability.STRIKES: "an eager task has ended before anything could strike it",
    Capability.RACES: "eager mode does one thing at a time",
    Capability.SETTINGS: "eager mode has no queue, no worker and no acknowledgement to set anything of",
    Capability.AMQP: "eager mode has no broker",
}

# Options of apply_async that mean something only with a clock or a pool.
_OPTIONS = {
    "countdown": Capability.ETA,
    "eta": Capability.ETA,
    "expires": Capability.EXPIRES,
    "time_limit": Capability.TIME_LIMITS,
    "soft_time_limit": Capability.TIME_LIMITS,
}
BODY_SECONDS = 60.0
"""How long what a story launches may take: a body that never ends must not hold the whole run."""


class CeleryEagerDriver:
    """The app in this process, with ``task_always_eager`` and results in memory."""

    name = "celery-eager"
    capabilities = frozenset(Capability) - _CANNOT.keys()

    def __init__(self) -> None:
        self.refused: list[CapabilityError] = []
        self._app: Celery | None = None
        self._stage: Stage | None = None
        self._workflows: WorkflowControl | None = None
        self._test = ExitStack()
        self._events: list[Event] = []
        self._labels: dict[str, str] = {}
        self._words: EagerWords | None = None

    def cannot(self, capability: Capability) -> str | None:
        """Return why eager mode cannot show ``capability``."""
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
        """Make ``app`` eager."""
        assert app is not None, "the celery-eager world needs an app"
        self._app = app
        self._events, self._labels, self.refused = [], {}, []
        finalize(app)
        # Where all depends on what is stored, it must be stored.
        theirs = settings.get("task_store_eager_result", app.conf.task_store_eager_result)
        strict = self._stage is not None or bool(theirs)
        changes = memory_changes(app) | {"task_always_eager": True, "task_store_eager_result": True}
        if self._stage is not None:
            changes["task_eager_propagates"] = False
        self._test.enter_context(contained_exits())
        self._test.enter_context(_results_kept())
        self._test.enter_context(AppPatch(app, changes | dict(settings)).applied())
        self._allow_joins()
        self._words = EagerWords()
        if not strict:
            self._spare_unstorable(self._words)
        self._store_results(app)
        self._guard(app, self._words)
        self._listen(app)
        self._test.enter_context(self._words.listening())

    def clock(self) -> Clock:
        """Refuse."""
        self._refuse(Capability.CLOCK)

    def task_backend(self) -> TaskBackend:
        """Return a backend over the eager app."""
        from taskservice.backends.celery import CeleryBackend

        assert self._app is not None
        return CeleryBackend(self._app)

    def blocking_service(self) -> BlockingTaskService:
        """Return the same service for a test without an event loop."""
        from taskservice import BlockingTaskService

        return BlockingTaskService(self.task_backend())

    def workflows(self) -> WorkflowControl:
        """Return control over workflow runs, which go on inside its calls."""
        from pytest_taskservice.drivers.workflow_eager import cannot_play, open_eager

        assert self._app is not None
        if reason := cannot_play(self._stage):
            error = CapabilityError(self.name, Capability.WORKFLOWS, reason)
            self.refused.append(error)
            raise error
        if self._workflows is None:
            self._workflows = open_eager(
                self._app,
                self._stage,
                tell=self._events.append,
                contained=self._contained,
                held=self._test,
            )
        return self._workflows

    def launch(self, call: TaskCall) -> str:
        """Run one task, and return when it has ended."""
        assert self._app is not None
        for capability in celery_app.required(call):
            self._refuse(capability)
        run_id = str(uuid.uuid4())
        # Eager mode drops the name a message would be shown by.
        self._labels[run_id] = call.label or ""
        with self._contained():
            celery_app.send(self._app, call, task_id=run_id)
        return run_id

    def launch_canvas(self, kind: str, members: tuple[TaskCall, ...], body: TaskCall | None) -> CanvasRuns:
        """Run a canvas, and return when it has ended; what fails in it ends it, as eager mode has it."""
        assert self._app is not None
        calls = (*members, *([body] if body is not None else ()))
        for capability in (found for call in calls for found in celery_app.required(call)):
            self._refuse(capability)
        runs = tuple(str(uuid.uuid4()) for _ in calls)
        self._labels |= {run: call.label or "" for run, call in zip(runs, calls, strict=True)}
        try:
            with self._contained():
                send_canvas(self._app, kind, members, body, ids=runs)
        except CapabilityError:
            raise
        except Exception:
            # Eager mode raises the error of a run at whoever launched the canvas.
            if not any(self.outcome(run).status == "FAILURE" for run in runs):
                raise
        if kind == "group":
            return CanvasRuns(ends=runs)
        return CanvasRuns(ends=runs[-1:], members=runs[:-1])

    def faults(self) -> FaultControl:
        """Refuse."""
        self._refuse(Capability.PROCESS_FAULTS)

    def at_once(self, acts: Sequence[Callable[[], None]]) -> None:
        """Refuse."""
        self._refuse(Capability.RACES)

    def outcome(self, run_id: str) -> Outcome:
        """Return what was stored."""
        assert self._app is not None
        return celery_app.outcome_of(self._app, run_id)

    def revoke(self, run_id: str) -> None:
        """Refuse."""
        self._refuse(Capability.REVOKE)

    def settle(self, *, timeout: float) -> None:
        """Do nothing: every launch has ended."""

    def log(self) -> EventLog:
        """Return what the app's signals told."""
        return EventLog(iter(self._events))

    def reset(self) -> None:
        """Restore the app, and forget the results."""
        self._test.close()
        self._workflows = None

    def describe(self) -> str:
        """Return what eager mode cannot show."""
        return f"cannot show {', '.join(sorted(_CANNOT))}"

    def report(self) -> dict[str, str]:
        """Return what eager mode did otherwise than a worker would have."""
        return {"eager mode": self._words.text()} if self._words is not None else {}

    def close(self) -> None:
        """Restore the app."""
        self._test.close()

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Refuse what a body raises to end its process, here the test's; end one that never ends itself."""
        try:
            with ended_after(BODY_SECONDS):
                yield
        except OverdueError as error:
            raise HarnessTimeoutError(
                f"a body is not over after {BODY_SECONDS:g} s, which eager mode waits for; "
                f"it stands at {line_of(error.__traceback__)}"
            ) from None
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - told as what eager mode cannot show
            name = type(error).__name__
            reason = f"a task raised {name}, which eager mode raises at whoever sends, and no worker does"
            self._refuse(Capability.PROCESSES, word=name, reason=reason)

    def _refuse(self, capability: Capability, *, word: str = "", reason: str = "") -> NoReturn:
        error = CapabilityError(self.name, word or capability, reason or _CANNOT[capability])
        self.refused.append(error)
        raise error

    def _allow_joins(self) -> None:
        # Eager tasks of several threads may leave it set for the whole process, as Celery 5.7 does.
        state: Any = import_module("celery._state")
        state._set_task_join_will_block(False)  # noqa: SLF001 - Celery has no public name for it

    def _store_results(self, app: Celery) -> None:
        # A task copies this setting when it is bound, which may have been before.
        for task in app.tasks.values():
            before = task.store_eager_result
            task.store_eager_result = True
            self._test.callback(setattr, task, "store_eager_result", before)

    def _spare_unstorable(self, words: EagerWords) -> None:
        """Let a result be that cannot be stored: only we have eager mode store any."""
        from celery.backends.base import Backend
        from kombu.exceptions import EncodeError

        kind: Any = Backend
        mark_as_done = kind.mark_as_done

        @wraps(mark_as_done)
        def mark(
            backend: Any, task_id: str, result: Any, request: Any = None, *args: Any, **given: Any
        ) -> Any:
            try:
                return mark_as_done(backend, task_id, result, request, *args, **given)
            except EncodeError:
                if not getattr(request, "is_eager", False):
                    raise
                words.unstorable(str(request.task), result, backend.serializer)
                return mark_as_done(backend, task_id, result, request, False)

        kind.mark_as_done = mark
        self._test.callback(setattr, kind, "mark_as_done", mark_as_done)

    def _guard(self, app: Celery, words: EagerWords) -> None:
        """Refuse calls that eager mode would play wrongly."""

        def check(task: Any, options: Mapping[str, Any]) -> None:
            # A retry comes through apply() and keeps its countdown: that lie is Capability.BACKOFF.
            for option, capability in _OPTIONS.items():
                if options.get(option) is not None:
                    self._refuse(capability)
            words.sent(task, options)

        def refuse_verdict(word: str, reason: str) -> None:
            self._refuse(Capability.SETTINGS, word=word, reason=reason)

        def refuse() -> None:
            # Eager mode has no say in send_task(name): the message would wait for ever.
            self._refuse(Capability.CELERY_MESSAGES)

        def refuse_command(command: str) -> None:
            if command == "revoke":
                self._refuse(Capability.REVOKE)
            self._refuse(Capability.WORKERS, word="remote control")

        self._test.enter_context(celery_app.guarded(app, on_apply=check, on_send=refuse))
        self._test.enter_context(celery_app.without_workers(app, on_control=refuse_command))
        self._test.enter_context(asked_for_verdicts(refuse_verdict))

    def _listen(self, app: Celery) -> None:
        from celery import signals

        def listener(kind: EventKind) -> Any:
            def record(sender: Any = None, **message: Any) -> None:
                request = message.get("request") or getattr(sender, "request", None)
                if getattr(sender, "app", None) is app and request is not None:
                    self._record(kind, sender, request, message)
                    if kind is EventKind.STARTED and self._words is not None:
                        self._words.started(sender, request)
                    elif kind is EventKind.RETRIED and self._words is not None:
                        self._words.retried(sender, request, message.get("reason"))
                    elif kind is EventKind.FAILED and self._words is not None:
                        self._words.failed(sender, message["exception"])

            return record

        for signal, kind in (
            (signals.task_prerun, EventKind.STARTED),
            (signals.task_retry, EventKind.RETRIED),
            (signals.task_success, EventKind.SUCCEEDED),
            (signals.task_failure, EventKind.FAILED),
        ):
            receiver = listener(kind)
            signal.connect(receiver, weak=False)
            self._test.callback(signal.disconnect, receiver)

    def _record(self, kind: EventKind, task: Any, request: Any, message: dict[str, Any]) -> None:
        attempt = int(request.retries or 0) + 1
        found = {key: message[key] for key in ("result", "exception", "reason") if key in message}
        event = Event(
            at=celery_app.now(),
            kind=kind,
            run=str(request.id),
            task=self._labels.get(str(request.id)) or task.name,
            attempt=attempt,
            detail={key: text_of(value)[:500] for key, value in found.items()},
        )
        if kind is EventKind.STARTED and attempt == 1:
            self._events.append(Event(at=event.at, kind=EventKind.SENT, run=event.run, task=event.task))
        self._events.append(event)


@contextmanager
def _results_kept() -> Iterator[None]:
    """Keep all results of a test in memory: of more than 5,000 Celery would forget the first ones."""
    cache: Any = import_module("celery.backends.cache")._DUMMY_CLIENT_CACHE  # noqa: SLF001 - of cache+memory://
    limit, cache.limit = cache.limit, None
    try:
        yield
    finally:
        cache.limit = limit
        cache.clear()
