"""The beat in process: launches what its timetable says, until it is cancelled.

Clock, sleep and launching arrive as arguments. What was due lives in memory, as in-process runs do.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Final

from taskservice.backends.calls import is_celery_task, prepare_arguments
from taskservice.errors import (
    BackendUnavailableError,
    ConfigurationError,
    ScheduleError,
    ServiceClosedError,
    TaskNotRegisteredError,
)
from taskservice.schedules.timetable import Due, Timetable
from taskservice.tasks import default_registry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from celery import Celery

    from taskservice.backends.base import TaskFunction
    from taskservice.schedules.entries import ScheduleEntry

    Launch = Callable[[ScheduleEntry], Awaitable[object]]
    Sleep = Callable[[float], Awaitable[object]]

__all__ = ["find_tasks", "run_schedule", "utc_now"]

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""The clock is looked at this often at least, for somebody may move it."""
RETRY_SECONDS: Final = 1.0


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(tz=UTC)


async def run_schedule(
    entries: Iterable[ScheduleEntry],
    launch: Launch,
    *,
    clock: Callable[[], datetime] = utc_now,
    sleep: Sleep,
    look: float = LOOK_SECONDS,
) -> None:
    """Launch each entry when it is due; returns only by being cancelled.

    A back end that does not answer is tried again, and then everything that fell due is launched
    once. An entry that cannot be launched is logged and left until it is due again. The clock is looked
    at every ``look`` seconds at least.
    """
    by_name = {entry.name: entry for entry in entries}
    if not by_name:
        logger.warning("no schedule is enabled, nothing will be launched")
    timetable = Timetable({name: entry.timing for name, entry in by_name.items()})
    timetable.begin({}, clock())
    available = True
    while True:
        now = clock()
        for due in timetable.due(now):
            before, available = (
                available,
                await _launched(by_name[due.name], due, launch, quiet=not available),
            )
            if not available:
                break
            if not before:
                logger.info("the back end answered again, schedules went on")
            timetable.done(due, now)

        wait = min(timetable.wait(clock()), look)
        await sleep(wait if available else RETRY_SECONDS)


def find_tasks(
    entries: Iterable[ScheduleEntry], *, imports: Iterable[str], app: Celery | None
) -> dict[str, TaskFunction]:
    """Return what each entry launches, by the entry's name; it imports, so it blocks.

    `ScheduleError` for a task that nobody knows and for arguments that it does not take.
    """
    for module in imports:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"put {module!r} on the import path, or take it out of imports: {error}"
            ) from error
    known = _known_tasks(app)
    return {entry.name: _checked(entry, known) for entry in entries}


async def _launched(entry: ScheduleEntry, due: Due, launch: Launch, *, quiet: bool) -> bool:
    try:
        await launch(entry)
    except BackendUnavailableError as error:
        if not quiet:
            logger.warning("schedule %s waits for its back end: %s", entry.name, error)
        return False
    except ServiceClosedError:
        raise
    except Exception:
        logger.exception("schedule %s was not launched", entry.name, extra={"schedule": entry.name})
        return True

    logger.info("schedule %s launched, due %s", entry.name, due.at, extra={"schedule": entry.name})
    return True


def _known_tasks(app: Celery | None) -> dict[str, TaskFunction]:
    known: dict[str, TaskFunction] = {}
    if app is not None:
        app.loader.import_default_modules()
        app.finalize()
        known.update(app.tasks)
    known.update({definition.name: definition for definition in default_registry})
    return known


def _checked(entry: ScheduleEntry, known: Mapping[str, TaskFunction]) -> TaskFunction:
    func = known.get(entry.task)
    if func is None:
        missing = TaskNotRegisteredError(entry.task, tuple(sorted(known)))
        raise ScheduleError(entry.name, "task", str(missing))

    if is_celery_task(func) and not func.typing:
        return func
    try:
        prepare_arguments(func, entry.args, entry.kwargs)
    except TypeError as error:
        raise ScheduleError(entry.name, "args", f"{entry.task} does not take them: {error}") from error
    return func
