"""Cron: five fields, with the meaning that Celery's ``crontab`` gives them.

Celery reads them leniently (``monkey`` is Monday, ``5-10-15`` is ``5-10``), so they are checked here
first. It is imported when the first cron string is seen.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from celery.schedules import crontab

__all__ = ["Cron", "CronTiming", "celery_crontab", "cron_timing"]

WORDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LOOK_BACK: Final = timedelta(hours=3)
"""Longer than any hour that comes twice, short enough to count through every minute of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cron:
    """A cron string in a time zone; `ValueError` for one that is wrong or never fires."""

    text: str
    zone: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _checked(self.text))
        _timing(self.text, self.zone)

    def after(self, last: datetime, now: datetime) -> datetime:
        """See `Timing`."""
        return _timing(self.text, self.zone).after(last, now)

    def latest(self, due: datetime, now: datetime) -> datetime:
        """See `Timing`."""
        return _timing(self.text, self.zone).latest(due, now)


@dataclass(frozen=True, slots=True)
class CronTiming:
    """The instants of one of Celery's crontabs.

    Where clocks go back, what is due in the hour that comes twice is due in the first one; where they
    go forward, what is due in the skipped hour is due an hour later by the clock.
    """

    crontab: crontab

    def after(self, last: datetime, now: datetime) -> datetime:
        """See `Timing`."""
        # What Celery returns besides is in the zone of this machine before 5.7.
        zone: Any = self.crontab.tz
        local = last.astimezone(zone)
        token = _asked_at.set(local)
        try:
            _, delta, _ = self.crontab.remaining_delta(local)
        finally:
            _asked_at.reset(token)
        wall: datetime = local + delta
        first = wall.replace(fold=0).astimezone(UTC)
        return first if first > last else wall.replace(fold=1).astimezone(UTC)

    def latest(self, due: datetime, now: datetime) -> datetime:
        """See `Timing`."""
        if now - due > LOOK_BACK:
            later = self.after(now - LOOK_BACK, now)
            due = later if later <= now else due
        # Step by step, or the second coming of an hour would be taken for a new one.
        while (later := self.after(due, now)) <= now:
            due = later
        return due


def celery_crontab(text: str, **options: Any) -> crontab:
    """Return Celery's own schedule for a checked string."""
    from celery.schedules import crontab

    minute, hour, day, month, weekday = text.split()
    return crontab(minute, hour, weekday, day, month, **options)


def cron_timing(found: crontab) -> CronTiming:
    """Return the timing of a crontab that some app has."""
    reduced: Any = found.__reduce__()
    kind, fields, _ = reduced
    return CronTiming(kind(*fields, nowfun=_asked_at.get, app=found.app))


# Before 5.7 Celery looks for a later minute of the same hour only if that hour is of the present day.
_asked_at: ContextVar[datetime] = ContextVar("_asked_at")


@lru_cache(maxsize=1024)
def _timing(text: str, zone: str) -> CronTiming:
    # An app is asked for its time zone, and whether it thinks in UTC, and nothing else.
    app = SimpleNamespace(timezone=ZoneInfo(zone), conf=SimpleNamespace(enable_utc=True))
    try:
        timing = CronTiming(celery_crontab(text, nowfun=_asked_at.get, app=app))
        now = datetime.now(tz=UTC)
        timing.after(now, now)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"cron {text!r} never fires: {error}") from error
    return timing


@dataclass(frozen=True, kw_only=True, slots=True)
class _Field:
    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()
    note: str = ""


_FIELDS: Final = (
    _Field(name="minute", lowest=0, highest=59),
    _Field(name="hour", lowest=0, highest=23),
    _Field(name="day of month", lowest=1, highest=31),
    _Field(
        name="month",
        lowest=1,
        highest=12,
        names=(
            "january",
            "february",
            "march",
            "april",
            "may",
            "june",
            "july",
            "august",
            "september",
            "october",
            "november",
            "december",
        ),
    ),
    _Field(
        name="day of week",
        lowest=0,
        highest=6,
        names=("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"),
        note=", Sunday is 0",
    ),
)
_PART: Final = re.compile(r"(?:\*|(?P<first>\w+)(?P<range>-(?P<last>\w+))?)(?:/(?P<step>\w+))?", re.ASCII)


def _checked(text: str) -> str:
    spelt = text.strip()
    if spelt.startswith("@"):
        if spelt.lower() not in WORDS:
            raise ValueError(f"unknown word {text!r}; known: {', '.join(WORDS)}")
        return WORDS[spelt.lower()]

    parts = spelt.split()
    if len(parts) != len(_FIELDS):
        fields = ", ".join(field.name for field in _FIELDS)
        raise ValueError(f"cron needs five fields ({fields}), got {len(parts)} in {text!r}")
    for field, part in zip(_FIELDS, parts, strict=True):
        for item in part.split(","):
            problem = _problem(field, item)
            if problem:
                raise ValueError(f"cron {text!r}: {field.name} {part!r}: {problem}")
    return " ".join(parts)


def _problem(field: _Field, item: str) -> str:
    found = _PART.fullmatch(item)
    if found is None:
        return f"cannot read {item!r}; write *, 5, 1-5, */5 or 1-30/5, with commas between them"

    step = found["step"]
    if step is not None:
        if found["first"] is not None and found["range"] is None:
            return f"a step needs a range or *, got {item!r}"
        if not step.isdecimal() or int(step) == 0:
            return f"need a step of 1 or more, got {step!r}"
    for value in (found["first"], found["last"]):
        if value is not None and not _known(field, value):
            return f"need {field.lowest} to {field.highest}{field.note}, got {value!r}"
    return ""


def _known(field: _Field, value: str) -> bool:
    if value.isdecimal():
        return field.lowest <= int(value) <= field.highest

    return any(value.lower() in {name, name[:3]} for name in field.names)
