"""Selection: which back end, and why."""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from taskservice.backends.anyio import AnyIOBackend
from taskservice.backends.configuration import KEY_PREFIX, REDIS_URL
from taskservice.backends.sharing import refuse_several
from taskservice.errors import BackendUnavailableError, ConfigurationError
from taskservice.schedules.entries import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from taskservice.backends.base import TaskBackend
    from taskservice.runs import RunListener
    from taskservice.settings import Settings

__all__ = [
    "AvailabilityProbe",
    "BackendSelector",
    "ProbeAnswer",
    "Selection",
    "select_backend",
]

logger = logging.getLogger(__name__)

PROBE_SECONDS: Final = 1.0
CACHE_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeAnswer:
    """Whether Celery could run something now, and in one line why."""

    broker: bool
    worker: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The back end taken, not yet opened; ``reason`` says why it was this one."""

    backend: TaskBackend
    requested: str
    reason: str

    @property
    def fell_back(self) -> bool:
        """Whether Celery would have been preferred."""
        return self.requested == "auto" and self.backend.name == "anyio"


class AvailabilityProbe:
    """Asks broker and workers, one second in total, and remembers the answer for some more.

    A worker counts if it beats (see `taskservice.heartbeats`) or answers Celery's own ping, which
    covers workers that somebody else's command started.
    """

    def __init__(
        self,
        *,
        seconds: float = PROBE_SECONDS,
        keep: float = CACHE_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._seconds = seconds
        self._keep = keep
        self._clock = clock
        self._answers: dict[tuple[str, ...], tuple[float, ProbeAnswer]] = {}

    def ask(self, app: Celery) -> ProbeAnswer:
        """Return the answer for this broker; it blocks for ``seconds`` at most."""
        key = tuple(str(app.conf.get(name)) for name in ("broker_url", REDIS_URL, KEY_PREFIX))
        kept = self._answers.get(key)
        if kept is not None and self._clock() - kept[0] < self._keep:
            return kept[1]

        answer = self._bounded(app)
        self._answers[key] = (self._clock(), answer)
        return answer

    def _bounded(self, app: Celery) -> ProbeAnswer:
        answers: list[ProbeAnswer] = []

        def probe() -> None:
            try:
                answers.append(_probe(app, self._seconds))
            except Exception as error:
                logger.exception("availability probe failed")
                answers.append(ProbeAnswer(broker=False, worker=False, reason=repr(error)))

        # A name server or a transport may hang for longer; its thread is left to itself then.
        thread = threading.Thread(target=probe, name="taskservice-probe", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if answers:
            return answers[0]

        reason = f"no answer from broker and workers in {self._seconds:g} s"
        return ProbeAnswer(broker=False, worker=False, reason=reason)


_shared_probe = AvailabilityProbe()


def select_backend(
    settings: Settings,
    app: Celery | None = None,
    *,
    listener: RunListener | None = None,
    probe: AvailabilityProbe = _shared_probe,
) -> Selection:
    """Return the back end that ``settings.backend`` asks for; it blocks for about a second at most.

    ``auto`` is Celery if broker and a worker answer, otherwise AnyIO with a warning that says why.
    A name never falls back: ``celery`` without a broker raises `BackendUnavailableError`; without a
    worker it is taken, since runs may wait for one. `ScheduleError` for a wrong ``beat_schedule``;
    `ConfigurationError` where AnyIO would be taken in one of several processes, of which none knows the
    others' runs.
    """
    parse_schedule(settings.beat_schedule, zone=settings.timezone)
    if settings.backend == "anyio":
        refuse_several(settings, "anyio was asked for by name")
        return Selection(backend=_anyio(settings, listener), requested="anyio", reason="asked for by name")

    from taskservice.backends.app import build_app
    from taskservice.backends.celery import CeleryBackend
    from taskservice.backends.storage import locate_storage

    app = build_app(settings) if app is None else app
    if app.conf.task_always_eager:
        return Selection(
            backend=CeleryBackend(app, settings=settings),
            requested=settings.backend,
            reason="the app is eager",
        )

    locate_storage(app, settings)
    answer = probe.ask(app)
    if settings.backend == "celery" and not answer.broker:
        raise BackendUnavailableError("celery", answer.reason)
    if settings.backend == "celery" or answer.worker:
        return Selection(
            backend=CeleryBackend(app, settings=settings), requested=settings.backend, reason=answer.reason
        )

    refuse_several(settings, f"celery is not available: {answer.reason}")
    logger.warning("celery is not available, tasks run in this process: %s", answer.reason)
    return Selection(backend=_anyio(settings, listener), requested="auto", reason=answer.reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendSelector:
    """A selection to be made when the service opens; see `select_backend`."""

    settings: Settings
    app: Celery | None = None
    listener: RunListener | None = None

    def select(self) -> Selection:
        """Make it; it blocks for about a second at most."""
        return select_backend(self.settings, self.app, listener=self.listener)


def _anyio(settings: Settings, listener: RunListener | None) -> AnyIOBackend:
    return AnyIOBackend(
        retention_count=settings.retention_count,
        retention=settings.retention.total_seconds(),
        grace=settings.grace.total_seconds(),
        payload_limit=settings.payload_limit,
        dead_letter_count=settings.dead_letter_count,
        dead_letter_retention=settings.dead_letter_retention.total_seconds(),
        listener=listener,
    )


def _probe(app: Celery, seconds: float) -> ProbeAnswer:
    from redis.exceptions import RedisError

    from taskservice.backends.probing import ping_broker, ping_workers
    from taskservice.backends.storage import open_storage
    from taskservice.heartbeats import read_with

    broker = ping_broker(app, seconds / 2)
    if not broker.healthy:
        return ProbeAnswer(broker=False, worker=False, reason=broker.detail)

    try:
        with closing(open_storage(app, "heartbeats", seconds=seconds / 4)) as storage:
            beats = read_with(storage.client, storage.key())
    except (ConfigurationError, RedisError, OSError):
        beats = []
    if beats:
        names = ", ".join(beat.worker for beat in beats)
        return ProbeAnswer(broker=True, worker=True, reason=f"{broker.detail}, worker {names}")

    others = ping_workers(app, seconds / 3)
    if others:
        names = ", ".join(others)
        return ProbeAnswer(broker=True, worker=True, reason=f"{broker.detail}, worker {names}")

    reason = f"{broker.detail}, but no worker; start one with `taskservice worker`"
    return ProbeAnswer(broker=True, worker=False, reason=reason)
