"""Entries: what ``beat_schedule`` says, checked to the last field before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from taskservice.errors import ConfigurationError, LaunchOptionError, PayloadError, ScheduleError
from taskservice.payloads import wire_arguments
from taskservice.schedules.cron import Cron, celery_crontab
from taskservice.schedules.timetable import Interval
from taskservice.submission import AT_ONCE, LaunchOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ScheduleEntry", "celery_schedule", "celery_value", "parse_schedule", "parse_timing"]

OPTIONS: Final = ("queue", "priority", "expires")
KEYS: Final = ("task", "schedule", "args", "kwargs", "options", "enabled", *OPTIONS)
_DURATION: Final = re.compile(
    r"P(?=.)(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleEntry:
    """One thing to launch by the clock, and with what."""

    name: str
    task: str
    timing: Interval | Cron
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: LaunchOptions = AT_ONCE


def parse_schedule(given: Mapping[str, Mapping[str, Any]], *, zone: str) -> tuple[ScheduleEntry, ...]:
    """Return the entries of a ``beat_schedule`` that are enabled; `ScheduleError` for the first mistake.

    ``zone`` is the time zone of cron strings. Disabled entries are checked as well.
    """
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError) as error:
        raise ConfigurationError(f"unknown time zone {zone!r}; use a name such as 'UTC'") from error

    found = [(_entry(name, fields, zone), fields) for name, fields in given.items()]
    return tuple(entry for entry, fields in found if fields.get("enabled", True))


def parse_timing(value: object, *, zone: str) -> Interval | Cron:
    """Return what ``value`` means; `ValueError` if nothing."""
    if isinstance(value, timedelta):
        return Interval(every=value)
    if isinstance(value, str):
        return _from_text(value, zone)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"need seconds, a cron string or an ISO 8601 duration, got {value!r}")  # noqa: TRY004
    return Interval(every=_seconds(value))


def celery_schedule(entries: Iterable[ScheduleEntry]) -> dict[str, dict[str, Any]]:
    """Return them as Celery's own ``beat_schedule``."""
    return {
        entry.name: {
            "task": entry.task,
            "schedule": celery_value(entry.timing),
            "args": entry.args,
            "kwargs": dict(entry.kwargs),
            "options": {
                name: getattr(entry.options, name)
                for name in OPTIONS
                if getattr(entry.options, name) is not None
            },
        }
        for entry in entries
    }


def celery_value(timing: Interval | Cron) -> Any:
    """Return Celery's own object; a crontab is in the time zone of the app that gets it."""
    return timing.every if isinstance(timing, Interval) else celery_crontab(timing.text)


def _entry(name: str, fields: Mapping[str, Any], zone: str) -> ScheduleEntry:
    if not isinstance(fields, Mapping):
        raise ScheduleError(name, "entry", f"need a dict with 'task' and 'schedule', got {fields!r}")

    _check_keys(name, "entry", fields, KEYS)
    task = fields.get("task")
    if not isinstance(task, str) or not task.strip():
        raise ScheduleError(name, "task", f"need the name of a task, {_found(fields, 'task')}")
    if fields.get("schedule") is None:
        raise ScheduleError(name, "schedule", f"need seconds or a cron string, {_found(fields, 'schedule')}")
    if not isinstance(fields.get("enabled", True), bool):
        raise ScheduleError(name, "enabled", f"need true or false, got {fields['enabled']!r}")

    args, kwargs = _arguments(name, fields)
    try:
        timing = parse_timing(fields["schedule"], zone=zone)
    except ValueError as error:
        raise ScheduleError(name, "schedule", str(error)) from error
    options = _options(name, fields)
    return ScheduleEntry(name=name, task=task, timing=timing, args=args, kwargs=kwargs, options=options)


def _arguments(name: str, fields: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = fields.get("args", ()), fields.get("kwargs", {})
    if not isinstance(args, list | tuple):
        raise ScheduleError(name, "args", f"need a list, got {args!r}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise ScheduleError(name, "kwargs", f"need a dict with names as keys, got {kwargs!r}")

    try:
        return tuple(wire_arguments(args, {})[0]), wire_arguments((), kwargs)[1]
    except PayloadError as error:
        wrong = "kwargs" if any(error.where.startswith(f"argument {key!r}") for key in kwargs) else "args"
        raise ScheduleError(name, wrong, str(error)) from error


def _options(name: str, fields: Mapping[str, Any]) -> LaunchOptions:
    given = fields.get("options", {})
    if not isinstance(given, Mapping):
        raise ScheduleError(name, "options", f"need a dict, got {given!r}")

    _check_keys(name, "options", given, OPTIONS)
    beside = {key: fields[key] for key in OPTIONS if key in fields}
    twice = sorted(beside.keys() & given.keys())
    if twice:
        raise ScheduleError(name, twice[0], "give it once, in the entry or in its options")
    try:
        return LaunchOptions(**given, **beside)
    except LaunchOptionError as error:
        raise ScheduleError(name, error.option, error.problem) from error


def _check_keys(name: str, where: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ScheduleError(name, where, f"unknown key {key!r}; {hint}known: {', '.join(known)}")


def _found(fields: Mapping[str, Any], key: str) -> str:
    return f"got {fields[key]!r}" if key in fields else "it is missing"


def _from_text(text: str, zone: str) -> Interval | Cron:
    if not text.lstrip().startswith("P"):
        return Cron(text=text, zone=zone)

    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"cannot read the duration {text!r}; write PT90S, PT5M, PT1H30M, P1D or P1W")
    try:
        parts = {unit: float(value) for unit, value in found.groupdict(default="0").items()}
        return Interval(every=timedelta(**parts))
    except OverflowError as error:
        raise ValueError(f"the duration {text!r} is beyond the calendar") from error


def _seconds(value: float) -> timedelta:
    try:
        if isfinite(value):
            return timedelta(seconds=value)
    except OverflowError as error:
        raise ValueError(f"{value} seconds are beyond the calendar") from error
    raise ValueError(f"need a finite number of seconds, got {value}")
