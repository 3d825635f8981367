"""Celery's beat with a memory in Redis: any number may run, one sends, another takes over.

``taskservice beat`` uses it; ``celery beat -S taskservice.worker.scheduler:RedisScheduler`` does too.

An entry is sent, then remembered: a beat killed in between sends that one again, under the same run
id. What fell due while nobody sent is sent once per entry.
"""

from __future__ import annotations

import logging
import math
from copy import copy
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_URL, uuid5

from celery.beat import Scheduler, SchedulingError
from kombu.exceptions import OperationalError
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from taskservice.backends.storage import locate_storage, open_storage
from taskservice.errors import ConfigurationError
from taskservice.schedules.timetable import Due, Timetable
from taskservice.settings import Settings, load_settings
from taskservice.worker.app_schedule import timing_of
from taskservice.worker.beat_store import BeatStore, Remembered

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import ScheduleEntry

__all__ = ["RedisScheduler", "open_beat_store"]

logger = logging.getLogger(__name__)

# Loading comes from a server that will answer soon.
AWAY: Final = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, OSError)
RETRY_SECONDS: Final = 1.0
REPEAT_SECONDS: Final = 60.0
"""How often it is said again that something is away."""


class RedisScheduler(Scheduler):
    """Sends what is due while it holds the lock. ``settings`` default to the environment's.

    Its Redis is the settings' ``redis_url``; if none was given, the one that holds the app's results or
    messages.
    """

    def __init__(
        self,
        app: Celery,
        *args: Any,
        settings: Settings | None = None,
        store: BeatStore | None = None,
        **kwargs: Any,
    ) -> None:
        self._settings = load_settings() if settings is None else settings
        self._leading = False
        self._runs: dict[str, int] = {}
        self._unsaved: dict[str, Remembered] = {}
        self._trouble = _Trouble()
        self._sending = self._stop = False
        self._store = store
        super().__init__(app, *args, **kwargs)
        self._step = min(self._settings.beat_lease.total_seconds() / 4, float(self.max_interval or math.inf))

    @property
    def info(self) -> str:
        """A line for Celery's banner."""
        return f"    . leads for -> {self._settings.beat_lease.total_seconds():g} s after its last word"

    def setup_schedule(self) -> None:
        """Take the app's entries; `ConfigurationError` for a Redis that will not do."""
        entries = self.app.conf.beat_schedule
        self.merge_inplace(entries)
        self.install_default_entries(entries)
        timings = {name: timing_of(entry.schedule, self.app) for name, entry in self.schedule.items()}
        self._timetable = Timetable(timings)
        self._store = self._store or open_beat_store(self.app, self._settings)

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due; return the seconds until there may be more."""
        try:
            wait = self._tick()
        except (RedisError, OSError) as error:
            self._trouble.tell("beat waits for Redis: %s", error)
            wait = RETRY_SECONDS
        if self._stop:
            raise SystemExit
        return wait

    def defer_stop(self) -> bool:
        """Stop after the entry that is being sent; false if there is none or it was asked before."""
        if not self._sending or self._stop:
            return False

        self._stop = True
        return True

    def close(self) -> None:
        """Write what is not written yet, and let another beat lead at once."""
        store, self._store = self._store, None
        if store is not None:
            try:
                if self._unsaved:
                    store.write(self._unsaved)
            except (RedisError, OSError) as error:
                logger.warning("beat could not write what it sent last: %s", error)
            store.release()
        super().close()

    def _tick(self) -> float:
        store, now = self._store, datetime.now(tz=UTC)
        if store is None or not self._holds(store, now):
            return self._step

        found = self._timetable.due(now)
        if not found:
            self._trouble.over()
            return min(self._timetable.wait(now), self._step)
        for due in found:
            if not self._sent(store, due, now):
                return RETRY_SECONDS
            if self._stop or not self._leading:
                break
        return 0.0

    def _holds(self, store: BeatStore, now: datetime) -> bool:
        hold = store.hold()
        if not hold.ours:
            if self._leading or self._trouble.first():
                logger.info("beat stands by, %s leads", hold.owner)
            self._leading = False
        elif hold.taken or not self._leading:
            self._lead(store, now)
        elif self._unsaved:
            self._save(store)
        return self._leading

    def _lead(self, store: BeatStore, now: datetime) -> None:
        stored = store.read()
        lasts = self._timetable.lasts()
        for name, remembered in stored.items():
            lasts[name] = max(remembered.last, lasts.get(name, remembered.last))
            self._runs[name] = max(remembered.runs, self._runs.get(name, 0))
        self._timetable.begin(lasts, now)
        # Written at once: an entry's first wait goes on over a restart.
        known = {
            name: Remembered(last=last, runs=self._runs.get(name, 0))
            for name, last in self._timetable.lasts().items()
        }
        if store.write(known, removed=sorted(stored.keys() - known.keys())):
            self._unsaved.clear()
            self._leading = True
            logger.info("beat leads with %d entries", len(known))

    def _sent(self, store: BeatStore, due: Due, now: datetime) -> bool:
        self._sending = True
        try:
            if not self._publish(due):
                return False

            last = self._timetable.done(due, now)
            self._unsaved[due.name] = Remembered(last=last, runs=self._runs.get(due.name, 0))
            self._save(store)
            return True
        finally:
            self._sending = False

    def _publish(self, due: Due) -> bool:
        entry = self.schedule[due.name]
        try:
            self.apply_async(self._marked(entry, due), advance=False)
        except SchedulingError as error:
            if isinstance(error.__context__, OperationalError | OSError | RedisError):
                self._trouble.tell("beat waits for the broker: %s", error)
                return False
            # It would fail again, and the others are waiting.
            logger.exception("schedule %s was not sent", due.name, extra={"schedule": due.name})
            return True

        self._trouble.over()
        self._runs[due.name] = self._runs.get(due.name, 0) + 1
        logger.info("schedule %s sent, due %s", due.name, due.at, extra={"schedule": due.name})
        return True

    def _save(self, store: BeatStore) -> None:
        # Who has lost the lock leaves it to the next one, who has read what was there.
        self._leading = store.write(self._unsaved)
        self._unsaved.clear()

    def _marked(self, entry: ScheduleEntry, due: Due) -> ScheduleEntry:
        assert self._store is not None
        marked = copy(entry)
        run_id = uuid5(NAMESPACE_URL, f"{self._store.entries_key}/{entry.name}/{due.at.isoformat()}")
        marked.options = {"task_id": str(run_id), **(entry.options or {})}
        return marked


def open_beat_store(app: Celery, settings: Settings) -> BeatStore:
    """Return where a beat of ``app`` remembers; `ConfigurationError` for a Redis that will not do.

    One that does not answer yet is waited for later.
    """
    try:
        locate_storage(app, settings)
        storage = open_storage(app, "schedules")
        store = BeatStore(storage, lease=settings.beat_lease)
        storage.client.ping()
    except AuthenticationError as error:
        raise _refusal(error) from error
    except AWAY as error:
        logger.warning("beat waits for Redis: %s", error)
    except (RedisError, ValueError) as error:
        raise _refusal(error) from error
    return store


class _Trouble:
    """Says that something is away: once, then every minute, and that it is over."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said = 0.0
        self._fresh = True

    def tell(self, message: str, error: Exception) -> None:
        now = monotonic()
        if self._since is None or now - self._said >= REPEAT_SECONDS:
            logger.warning(message, error)
            self._said = now
        self._since = now if self._since is None else self._since

    def over(self) -> None:
        if self._since is not None:
            logger.info("beat went on after %.0f s", monotonic() - self._since)
        self._since = None

    def first(self) -> bool:
        fresh, self._fresh = self._fresh, False
        return fresh


def _refusal(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the beat needs a Redis: set TASKSERVICE_REDIS_URL, or --schedule FILE: {error}"
    )
