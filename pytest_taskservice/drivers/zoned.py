"""Celery's crontab with a time zone of its own: that of an app is one for all the entries of its beat."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from celery.schedules import crontab

from taskservice.schedules.cron import celery_crontab

__all__ = ["ZonedCrontab", "zoned"]


class ZonedCrontab(crontab):
    """A crontab whose fields are read in ``zone``."""

    def __init__(self, *fields: str, zone: str) -> None:
        super().__init__(*fields)
        self.zone = zone
        # The zone in which Celery counts: the app's, unless there is one here already.
        self.__dict__["tz"] = ZoneInfo(zone)

    def __reduce__(self) -> Any:
        # A beat that is killed reads it from its file again.
        reduced: Any = super().__reduce__()
        kind, fields, _ = reduced
        return _rebuilt, (kind, fields, self.zone)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZonedCrontab) and other.zone == self.zone and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((self.zone, str(self)))


def zoned(text: str, zone: str) -> ZonedCrontab:
    """Return the schedule of a checked cron string in ``zone``."""
    reduced: Any = celery_crontab(text).__reduce__()
    _, fields, _ = reduced
    return ZonedCrontab(*fields, zone=zone)


def _rebuilt(kind: type[ZonedCrontab], fields: tuple[str, ...], zone: str) -> ZonedCrontab:
    return kind(*fields, zone=zone)
