"""The beat of a story in process: the task service's own, on the driver's event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from celery import Celery

    from pytest_taskservice.drivers.base import Stage, TaskCall
    from taskservice import TaskHandle
    from taskservice.backends.anyio import AnyIOBackend
    from taskservice.schedules.entries import ScheduleEntry

__all__ = ["beat_of"]

# Nobody moves the clock of a story behind its back: the next instant is known.
_LOOK = 86_400.0


def beat_of(
    stage: Stage, app: Celery, backend: AnyIOBackend, *, keep: Callable[[TaskHandle, TaskCall, str], None]
) -> Callable[[], Awaitable[None]]:
    """Return what launches the entries of ``stage`` until it is cancelled.

    ``keep`` is told of each run, its call and entry.
    """
    import anyio

    from pytest_taskservice.drivers.celery_app import find_task
    from taskservice.beat import run_schedule
    from taskservice.schedules.entries import ScheduleEntry, parse_timing
    from taskservice.submission import LaunchOptions

    calls = {name: stage.tasks[entry.task] for name, entry in stage.beat.items()}
    tasks: dict[str, Any] = {name: find_task(app, call.task) for name, call in calls.items()}
    entries = [
        ScheduleEntry(
            name=name,
            task=calls[name].task,
            timing=parse_timing(entry.every if entry.cron is None else entry.cron, zone=entry.timezone),
            args=calls[name].args,
            kwargs=calls[name].kwargs,
            options=LaunchOptions(expires=calls[name].expires),
        )
        for name, entry in stage.beat.items()
    ]

    async def launch(entry: ScheduleEntry) -> None:
        handle = await backend.launch_task(tasks[entry.name], entry.args, entry.kwargs, options=entry.options)
        keep(handle, calls[entry.name], entry.name)

    async def run() -> None:
        await run_schedule(entries, launch, sleep=anyio.sleep, look=_LOOK)

    return run
