"""Starting a beat in this process; it returns when it is told to stop.

Celery's own saves and stops wherever a signal meets it, be it between sending and remembering, or
while it saves; ours finishes the entry first.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from celery import platforms
from celery.apps.beat import Beat
from celery.beat import PersistentScheduler

from taskservice.backends.definitions import register_definitions
from taskservice.backends.sharing import refuse_memory
from taskservice.errors import ConfigurationError, TaskServiceError
from taskservice.service import TaskService
from taskservice.settings import Settings, load_settings
from taskservice.tasks import default_registry
from taskservice.worker.app import create_app
from taskservice.worker.app_schedule import settle_schedule
from taskservice.worker.scheduler import RedisScheduler, open_beat_store

if TYPE_CHECKING:
    from pathlib import Path

    from celery import Celery

__all__ = ["run_beat"]

LOG_FORMAT = "[%(asctime)s: %(levelname)s] %(message)s"


def run_beat(
    *,
    app: Celery | None = None,
    settings: Settings | None = None,
    schedule: Path | None = None,
    loglevel: str = "INFO",
) -> None:
    """Run the beat of ``app``, or of the settings; `ConfigurationError` before anything is sent.

    It remembers in Redis, with ``schedule`` in that file. With the ``anyio`` back end the tasks run
    here, and it remembers nothing.
    """
    given = load_settings() if settings is None else settings
    if given.backend == "anyio":
        if schedule is not None:
            raise ConfigurationError(f"leave out --schedule {schedule}: the anyio back end keeps no file")
        _refuse_own_schedule(app, given)
        logging.basicConfig(level=loglevel, format=LOG_FORMAT)
        anyio.run(_serve, given, app)
        return

    made = create_app(given) if app is None else app
    refuse_memory(made, given, results=False)
    if given.traces:
        from taskservice.telemetry.traces import instrument

        instrument()
    made.loader.init_worker()
    made.finalize()
    # What is sent by its name alone goes to the default queue, whatever its definition says.
    register_definitions(made, default_registry, payload_limit=given.payload_limit)
    settle_schedule(made, given)
    if schedule is None:
        # Opened here, where a mistake is not yet logged as a crash of the beat.
        scheduler: Any = partial(RedisScheduler, settings=given, store=open_beat_store(made, given))
    else:
        scheduler = _FileScheduler
    path = None if schedule is None else str(schedule)
    _OurBeat(app=made, scheduler=scheduler, schedule=path, loglevel=loglevel).run()


class _FileScheduler(PersistentScheduler):
    """Celery's own, which can be stopped between two entries; see `RedisScheduler.defer_stop`."""

    _ticking = _stop = False

    def tick(self, *_: Any, **__: Any) -> float:
        self._ticking = True
        try:
            wait: float = super().tick()
        finally:
            self._ticking = False
        if self._stop:
            raise SystemExit
        return wait

    def defer_stop(self) -> bool:
        if not self._ticking or self._stop:
            return False

        self._stop = True
        return True


class _OurBeat(Beat):
    """Celery's, but for how it stops."""

    def install_sync_handler(self, service: Any) -> None:
        """Have SIGTERM and SIGINT stop it between two entries; a second one, at once."""

        def stop(*_: object) -> None:
            if not service.scheduler.defer_stop():
                raise SystemExit

        platforms.signals.update(SIGTERM=stop, SIGINT=stop)


def _refuse_own_schedule(app: Celery | None, settings: Settings) -> None:
    if app is None:
        return

    app.loader.import_default_modules()
    app.finalize()
    own = sorted(set(app.conf.beat_schedule or ()) - set(settings.beat_schedule))
    if own:
        raise ConfigurationError(
            "the anyio back end runs the beat_schedule of the settings alone: write there what the app has: "
            + ", ".join(own)
        )


async def _serve(settings: Settings, app: Celery | None) -> None:
    failed: TaskServiceError | None = None
    async with TaskService.from_settings(settings, app) as service, anyio.create_task_group() as group:
        beat = anyio.CancelScope()
        group.start_soon(_stop_by_signal, beat)
        with beat:
            try:
                await service.run_beat()
            except TaskServiceError as error:  # as it is, and not in a group
                failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _stop_by_signal(beat: anyio.CancelScope) -> None:
    # Left after the first signal, so that a second one ends the process as usual.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for _ in received:
            beat.cancel()
            return
