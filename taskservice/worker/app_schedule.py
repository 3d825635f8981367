"""An app's own ``beat_schedule``, as Celery has it, and what each of its schedules means for us."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from celery.beat import ScheduleEntry
from celery.schedules import BaseSchedule, crontab, schedule

from taskservice.beat import find_tasks
from taskservice.errors import ConfigurationError, ScheduleError
from taskservice.schedules.cron import cron_timing
from taskservice.schedules.entries import celery_schedule, celery_value, parse_schedule, parse_timing
from taskservice.schedules.timetable import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from taskservice.schedules.timetable import Timing
    from taskservice.settings import Settings

__all__ = ["settle_schedule", "timing_of"]

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 60.0
ZONE: Final = "UTC"  # a check of the string alone; the app's own zone holds when it runs


def settle_schedule(app: Celery, settings: Settings) -> None:
    """Give ``app`` the settings' entries besides its own, all as Celery's objects, or raise.

    An entry of the settings stands over one of the app's with the same name, and off, puts it out.
    Its task must be known here; the app's own may live in workers alone.
    """
    conf = app.conf
    try:
        _ = app.timezone
    except (KeyError, OSError, ValueError) as error:
        raise ConfigurationError(f"unknown time zone {conf.timezone!r} of the app: {error}") from error

    own = {
        name: _own_entry(app, name, fields)
        for name, fields in (conf.beat_schedule or {}).items()
        if name not in settings.beat_schedule
    }
    ours = parse_schedule(settings.beat_schedule, zone=settings.timezone)
    find_tasks(ours, imports=settings.imports, app=app)
    conf.beat_schedule = {**own, **celery_schedule(ours)}


def timing_of(found: Any, app: Celery) -> Timing:
    """Return the timing of one of Celery's schedules."""
    kind = type(found)
    if kind is schedule and not found.relative and found.nowfun is None:
        return Interval(every=found.run_every)
    if kind is crontab and found.nowfun is None and app.conf.beat_cron_starting_deadline is None:
        return cron_timing(found)
    return _CelerysOwn(schedule=found)


@dataclass(frozen=True, kw_only=True, slots=True)
class _CelerysOwn:
    """A schedule that only says whether it is due at present: solar, relative, your own."""

    schedule: BaseSchedule

    def after(self, last: datetime, now: datetime) -> datetime:
        found: Any = self.schedule.is_due(last)
        due, seconds = found
        if due:
            return now

        wait = ASK_SECONDS if seconds is None else min(float(seconds), ASK_SECONDS)
        return now + timedelta(seconds=max(wait, 0.001))

    def latest(self, due: datetime, now: datetime) -> datetime:
        return now.astimezone(UTC)


def _own_entry(app: Celery, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    entry = dict(fields)
    value = entry.get("schedule")
    try:
        if isinstance(value, str | int | float | timedelta) and not entry.get("relative"):
            entry["schedule"] = celery_value(parse_timing(value, zone=ZONE))
        made = ScheduleEntry(**{**entry, "name": name, "app": app})
    except (TypeError, ValueError, AttributeError) as error:
        raise ScheduleError(name, "entry", str(error)) from error

    if not made.task:
        raise ScheduleError(name, "task", "need the name of a task, it is missing")
    if not isinstance(made.schedule, BaseSchedule):
        raise ScheduleError(name, "schedule", f"need seconds or a schedule of Celery's, got {value!r}")
    if made.task not in app.tasks:
        logger.warning("schedule %s: no task %r is known here, it is sent by its name", name, made.task)
    return entry
