"""Starting a worker in this process, of our app or of somebody's own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import Celery

from taskservice.backends.sharing import refuse_memory
from taskservice.errors import ConfigurationError
from taskservice.schedules.entries import parse_schedule
from taskservice.settings import Settings, load_settings
from taskservice.worker.app import create_app
from taskservice.worker.install import install_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["find_app", "run_worker"]


def run_worker(  # noqa: PLR0913 - all optional, all by name
    *,
    app: Celery | None = None,
    settings: Settings | None = None,
    queues: Sequence[str] = (),
    pool: str = "prefork",
    concurrency: int | None = None,
    loglevel: str = "INFO",
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
) -> None:
    """Run a worker that beats, until it is told to stop.

    ``queues`` default to the settings'; ``concurrency`` to the CPUs. With a ``metrics_port`` its metrics
    are shown there; 0 is any free port, which the log tells.
    """
    given = load_settings() if settings is None else settings
    parse_schedule(given.beat_schedule, zone=given.timezone)
    made = create_app(given) if app is None else app
    refuse_memory(made, given)
    install_worker(made, given)

    # Of two workers with one name RabbitMQ refuses the second, and their heartbeats are one.
    name = f"taskservice-{os.getpid()}@%h"
    argv = ["worker", "--pool", pool, "--loglevel", loglevel, "--hostname", name]
    # What workers would tell each other by it our heartbeats tell; with n of them each hears n a second.
    argv += ["--without-gossip"]
    consumed = _consumed(given, own_app=app is None, queues=queues)
    if consumed:
        argv += ["--queues", ",".join(consumed)]
    if concurrency is not None:
        argv += ["--concurrency", str(concurrency)]
    with ExitStack() as stack:
        if metrics_port is not None:
            from taskservice.worker.metrics import serving_metrics

            stack.enter_context(serving_metrics(made, host=metrics_host, port=metrics_port))
        made.worker_main(argv)


def find_app(name: str) -> Celery:
    """Return the Celery app called ``package.module:attribute``; the attribute may be a factory."""
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"cannot import the app {name!r}: {error}") from error

    for part in (attribute or "app").split("."):
        found = getattr(found, part, None)
    made = found if isinstance(found, Celery) else _call_factory(found)
    if not isinstance(made, Celery):
        raise ConfigurationError(f"name a Celery app as package.module:attribute; {name!r} is none")
    return made


def _call_factory(found: Any) -> object:
    if not callable(found):
        return None

    try:
        return found()
    except TypeError:  # it wants arguments, so it is no factory
        return None


def _consumed(settings: Settings, *, own_app: bool, queues: Sequence[str]) -> tuple[str, ...]:
    if queues:
        return tuple(queues)

    # Somebody's own app knows its queues.
    return (settings.default_queue, *settings.queues) if own_app else ()
