"""A canvas on Celery: our plan as Celery's own signatures, sent at once, and its runs."""

# ruff: noqa: D102 - Members documents the contract, once

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
from anyio import to_thread
from celery import Task, chain, chord, group
from celery.backends.base import DisabledBackend

from taskservice.backends.cancelling import revoke_waiting
from taskservice.backends.canvas.growth import refuse_growth
from taskservice.backends.canvas.plan import Parallel, Plan, Run, Series, Step, placed
from taskservice.backends.definitions import QueuedTask
from taskservice.backends.handles import REVOKE_SECONDS, CeleryHandle
from taskservice.backends.probing import visibility_timeout
from taskservice.backends.publishing import quiet_results
from taskservice.backends.remote import RemoteOutcome, read_outcome
from taskservice.backends.results import read_metas
from taskservice.completion import Completions
from taskservice.errors import ConfigurationError
from taskservice.runs import TaskState
from taskservice.submission import check_visibility, plan_launch

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["RemoteRuns", "Tasks", "map_arguments", "send_canvas"]

_SENT: Final = ("countdown", "eta", "expires", "priority", "queue")
Tasks: TypeAlias = "Mapping[str, Task[..., Any]]"  # quoted: Celery's classes take no parameters before 5.7
"""The Celery task of each run, by the run's id."""


def _check(app: Celery, plan: Plan) -> None:
    """Refuse what this app's broker or result backend cannot do."""
    if plan.headers and isinstance(app.backend, DisabledBackend):
        raise ConfigurationError("set result_backend: without stored results nothing can wait for a group")
    pool = app.conf.broker_pool_limit
    if plan.headers and pool and plan.headers >= pool:
        # It would wait for ever for a connection that it holds itself.
        raise ConfigurationError(
            f"set broker_pool_limit above {plan.headers}, it is {pool}: Celery holds a connection for each "
            "header in a header, and takes one more to send"
        )

    refuse_growth(plan)
    visible = visibility_timeout(app)
    if visible is not None:
        for run in plan.runs:
            with placed(run.place):
                check_visibility(plan_launch(run.options), visible)


def send_canvas(app: Celery, plan: Plan, tasks: Tasks, *, whole: Any = None) -> None:
    """Send ``plan``, or ``whole``, which is the same in Celery's words; it blocks for some round trips.

    Members of a group that nothing waits for go one by one: no group is needed to tell them apart.
    """
    _check(app, plan)
    root = plan.root
    builder = _Builder(app, tasks)
    if whole is not None:
        signatures = [whole]
    else:
        signatures = [
            builder.build(each) for each in (root.members if isinstance(root, Parallel) else (root,))
        ]
    with quiet_results(app):
        for each in signatures:
            each.apply_async()


def map_arguments(task: Task[..., Any], run: Run) -> tuple[str, dict[str, Any]]:
    """Return the name and the keywords of Celery's task that maps ``task`` over the items of ``run``."""
    name = "celery.starmap" if run.star else "celery.map"
    return name, {"task": dict(task.s()), "it": run.items}


class _Builder:
    def __init__(self, app: Celery, tasks: Tasks) -> None:
        self._app = app
        self._tasks = tasks

    def build(self, step: Step, *, collected: bool = False) -> Any:
        """Return the signature of ``step``; if its value is ``collected``, one run has to come to it."""
        if isinstance(step, Run):
            return self._call(step) if step.items is None else self._map(step)
        if isinstance(step, Series):
            return self._series(step.steps, collected)
        if collected:
            # Celery would wait for the whole tree of results in a worker, and lose the order.
            return self._chord(step, self._collector())
        return group([self.build(each) for each in step.members], app=self._app)

    def _series(self, steps: Sequence[Step], collected: bool) -> Any:
        # From the right: a group needs the signature that comes after it for its body.
        built = [self.build(steps[-1], collected=collected)]
        for step in reversed(steps[:-1]):
            if isinstance(step, Parallel):
                built[0] = self._chord(step, built[0])
            else:
                built.insert(0, self.build(step))
        # With a keyword Celery takes the steps as they are and does not fold them once more.
        return built[0] if len(built) == 1 else chain(*built, app=self._app)

    def _chord(self, header: Parallel, body: Any) -> Any:
        members = [self.build(each, collected=True) for each in header.members]
        return chord(group(members, app=self._app), body, app=self._app)

    def _collector(self) -> Any:
        return self._app.tasks["celery.accumulate"].s(index=0)

    def _call(self, run: Run) -> Any:
        task: Any = self._tasks[run.id]
        return task.signature(
            tuple(run.args), run.kwargs, _options(run), immutable=not run.takes_previous, app=self._app
        )

    def _map(self, run: Run) -> Any:
        task = self._tasks[run.id]
        options = _options(run)
        # The message is that of celery.map, and should go where the task's own would.
        if isinstance(task, QueuedTask):
            options.setdefault("queue", task.definition_queue)
            options.setdefault("priority", task.definition_priority)
        options.setdefault("expires", task.expires)
        found = {name: value for name, value in options.items() if value is not None}
        name, kwargs = map_arguments(task, run)
        # Not Celery's own xmap: before 5.7 that forgets its options, its id among them, when it is sent.
        return self._app.tasks[name].signature(
            (), kwargs, immutable=True, app=self._app, route_name=task.name, **found
        )


def _options(run: Run) -> dict[str, Any]:
    chosen = {name: value for name in _SENT if (value := getattr(run.options, name)) is not None}
    return {"task_id": run.id, **chosen}


class RemoteRuns:
    """The runs of a canvas on Celery; see `Members`."""

    def __init__(self, app: Celery, handles: Sequence[CeleryHandle]) -> None:
        self._app = app
        self.handles = handles

    async def look(self) -> list[RemoteOutcome]:
        seen = [handle.seen() for handle in self.handles]
        unknown = [index for index, each in enumerate(seen) if not each.state.final]
        if not unknown:
            return seen

        ids = [self.handles[index].id for index in unknown]
        metas = await to_thread.run_sync(read_metas, self.handles[0].results(), ids)
        for index, meta in zip(unknown, metas, strict=True):
            outcome = read_outcome(meta, self.handles[index].id)
            if outcome.state.final:
                self.handles[index].presume(outcome)
            seen[index] = outcome
        return seen

    async def stop(self, *, terminate: bool) -> bool:
        seen = await self.look()
        left = [handle for handle, each in zip(self.handles, seen, strict=True) if not each.state.final]
        running = {
            handle.id
            for handle, each in zip(self.handles, seen, strict=True)
            if each.state is TaskState.STARTED
        }
        waiting = [handle for handle in left if handle.id not in running]
        # First what waits: nothing of it may start when one that runs ends.
        if waiting:
            await to_thread.run_sync(revoke_waiting, self._app, *[handle.id for handle in waiting])
            with anyio.move_on_after(REVOKE_SECONDS):
                # One that has been started in the meantime is waited for in vain.
                await _until_over(waiting)
        async with anyio.create_task_group() as stopping:
            for handle in left:
                if handle.id in running:
                    stopping.start_soon(partial(handle.cancel, terminate=terminate))
        await self.look()
        return any(handle.seen().state is TaskState.REVOKED for handle in left)


async def _until_over(handles: Sequence[CeleryHandle]) -> None:
    completions = Completions(handles)
    try:
        async for _ in completions:
            pass
    finally:
        completions.close()
