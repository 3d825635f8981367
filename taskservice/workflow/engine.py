"""The engine: workflow runs started, answered and stopped, on the back end that a service has.

On Celery its messages go to workers. In process it executes runs itself, in the service's task group and
in this event loop, and sweeps as a worker would.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio import to_thread

from taskservice.backends.base import BackendCapability
from taskservice.errors import ServiceClosedError, TaskServiceError, WorkflowExpiredError
from taskservice.payloads import wire_value
from taskservice.settings import load_settings
from taskservice.tasks import TaskDefinition
from taskservice.workflow.definitions import WorkflowDefinition, default_workflows, new_run
from taskservice.workflow.model import EntryKind
from taskservice.workflow.runtime import WorkflowRuntime, open_store, use_runtime
from taskservice.workflow.store.base import apply_signal, load_run
from taskservice.workflow.sweeper import sweep
from taskservice.workflow.tasks import again_in, message_for
from taskservice.workflow.transitions import Answer, Stop, decide

if TYPE_CHECKING:
    from types import TracebackType

    from taskservice.service import TaskService
    from taskservice.settings import Settings
    from taskservice.workflow.definitions import WorkflowRegistry
    from taskservice.workflow.model import WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore
    from taskservice.workflow.transitions import Change

__all__ = ["WorkflowEngine"]

logger = logging.getLogger(__name__)


class WorkflowEngine:
    """Moves workflow runs on; open it with ``async with``, inside its open ``service``.

    Without ``store`` it is opened as ``settings.workflow_store`` says, and closed again at the end.
    """

    def __init__(
        self,
        service: TaskService,
        *,
        store: WorkflowStore | None = None,
        registry: WorkflowRegistry = default_workflows,
        settings: Settings | None = None,
    ) -> None:
        self.service = service
        self._given = store
        self._registry = registry
        self._settings = load_settings() if settings is None else settings
        self._runtime: WorkflowRuntime | None = None

    async def __aenter__(self) -> Self:
        capabilities = self.service.backend.capabilities
        self._in_process = self.service.backend.name == "anyio"
        async with AsyncExitStack() as stack:
            store = self._given
            if store is None:
                held = ExitStack()
                durable = BackendCapability.DURABLE in capabilities
                store = open_store(self._settings, shared=durable, held=held)
                stack.push_async_callback(self._off, store, held.close)
            runtime = WorkflowRuntime.from_settings(self._settings, store=store, registry=self._registry)
            stack.callback(runtime.close)
            self._runtime = runtime
            if BackendCapability.DURABLE not in capabilities:
                group = await stack.enter_async_context(anyio.create_task_group())
                stack.callback(group.cancel_scope.cancel)
                group.start_soon(self._sweep_forever)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
        self._runtime = None

    @property
    def runtime(self) -> WorkflowRuntime:
        """The store and all that; `ServiceClosedError` outside ``async with``."""
        if self._runtime is None:
            raise ServiceClosedError("workflow engine")

        return self._runtime

    @property
    def store(self) -> WorkflowStore:
        """Where the runs are."""
        return self.runtime.store

    async def start(
        self, workflow: WorkflowDefinition | str, /, *args: Any, owner: str = "", **kwargs: Any
    ) -> WorkflowRun:
        """Create a run and have it executed; ``owner`` is whose it is, and not the function's.

        See `launch`, which takes a function's own ``owner`` as well.
        """
        return await self.launch(workflow, args, kwargs, owner=owner)

    async def launch(
        self,
        workflow: WorkflowDefinition | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        owner: str = "",
    ) -> WorkflowRun:
        """Create a run and have it executed.

        A name is enough where the function itself is elsewhere. `PayloadError` for arguments that are
        not JSON, `TypeError` for those that the function does not take. If no message can be sent,
        nothing is left of the run.
        """
        runtime = self.runtime
        known = workflow
        if isinstance(workflow, str) and workflow in runtime.registry:
            known = runtime.registry.get(workflow)
        run = new_run(
            known,
            args,
            kwargs,
            owner=owner,
            now=runtime.clock(),
            defaults=runtime.deadlines,
            payload_limit=runtime.payload_limit,
        )
        await self._off(runtime.store, runtime.store.create, run, ("status", {"status": run.status.value}))
        try:
            await self.dispatch(run)
        except TaskServiceError:
            await self._off(runtime.store, runtime.store.forget, run.id)
            raise
        logger.info("workflow run %s started", run.id, extra={"run_id": run.id})
        return run

    async def answer(self, run_id: str, question_id: str, value: Any) -> WorkflowRun:
        """Answer an open question, and have the run go on; exactly one of several answers is taken.

        `QuestionError` for a question that is not open, `WorkflowOverError`, `WorkflowExpiredError`.
        """
        runtime = self.runtime
        answer = wire_value(value, "the answer", limit=runtime.payload_limit)
        run: WorkflowRun = await self._off(
            runtime.store, answer_question, runtime, run_id, question_id, answer
        )
        try:
            await self.dispatch(run)
        except TaskServiceError as error:
            # It is taken, and whoever answers again would hear that it is. A sweeper asks again.
            logger.warning("workflow run %s waits for a sweeper: %s", run_id, error, extra={"run_id": run_id})
        return run

    async def stop(self, run_id: str) -> WorkflowRun:
        """End a run at once, whatever it does; `WorkflowOverError`, `WorkflowExpiredError`."""
        runtime = self.runtime
        stop = partial(apply_signal, runtime.store, run_id, Stop(), now=runtime.clock())
        change: Change = await self._off(runtime.store, stop)
        return change.run

    async def load(self, run_id: str) -> WorkflowRun:
        """Return a run as it is now, or raise `WorkflowExpiredError`."""
        load = partial(load_run, self.store, run_id, now=self.runtime.clock())
        run: WorkflowRun = await self._off(self.store, load)
        return run

    async def dispatch(self, run: WorkflowRun, *, again: bool = False) -> None:
        """Ask for ``run`` to be taken up; ``again`` if it was asked for before."""
        runtime, task = self.runtime, message_for(run)
        if self._in_process:
            # The same name, and no thread: the function runs in this loop, or gets a thread of its own.
            local = TaskDefinition(func=runtime.runner.execute_async, name=task.name)
            await self.service.launch_task(local, run.id)
            return

        launcher = self.service.options(queue=run.queue or None, expires=again_in(run) if again else None)
        with use_runtime(runtime):
            await launcher.launch_task(task, run.id)

    async def _sweep_forever(self) -> None:
        interval = self._settings.workflow_sweep_interval.total_seconds()
        while True:
            try:
                await self.sweep()
            except TaskServiceError as error:
                logger.warning("workflow runs not swept: %s", error)
            await anyio.sleep(interval)

    async def sweep(self) -> None:
        """End the runs that are overdue now, and have those taken up that nobody has."""
        runtime = self.runtime
        for run in await self._off(runtime.store, partial(sweep, runtime.store, now=runtime.clock())):
            await self.dispatch(run, again=True)

    @staticmethod
    async def _off(store: WorkflowStore, call: Callable[..., Any], *args: Any) -> Any:
        if store.local:
            return call(*args)

        return await to_thread.run_sync(partial(call, *args))


def answer_question(runtime: WorkflowRuntime, run_id: str, question_id: str, value: Any) -> WorkflowRun:
    """Write the answer into the journal, in the question's place; see `WorkflowEngine.answer`."""
    store = runtime.store
    run = store.load(run_id)
    if run is None:
        raise WorkflowExpiredError(run_id)

    now, signal = runtime.clock(), Answer(question_id=question_id)
    change = decide(run, signal, now=now)
    # The question is open, so its entry is the journal's last, and stays it as long as that is so.
    journal = store.journal(run_id)
    if not journal:
        raise WorkflowExpiredError(run_id)
    entry = replace(journal[-1], kind=EntryKind.INPUT, value=value)
    if store.write(run, change, now=now, entry=entry):
        return change.run
    return apply_signal(store, run_id, signal, now=now, entry=entry).run
