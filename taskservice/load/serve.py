"""A worker or the API for a load run: ``python -m taskservice.load.serve worker '{...}'``."""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskservice.backends.queues import queue_names
from taskservice.load.apps import open_app
from taskservice.settings import Settings, load_settings

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["main"]


def main() -> None:
    """Serve until told to stop; the arguments are ``worker`` or ``api``, and what is to be served as JSON."""
    what, config = sys.argv[1], json.loads(sys.argv[2])
    settings = load_settings()
    app = open_app(config["app"], settings, redirect=config["redirect"])
    for module in settings.imports:  # somebody's own app knows nothing of them
        import_module(module)
    logging.basicConfig(level="WARNING")
    if what == "worker":
        _work(app, settings, config)
    else:
        from taskservice.api import run_api

        run_api(app=app, settings=settings, host="127.0.0.1", port=config["port"])


def _work(app: Celery, settings: Settings, config: dict[str, Any]) -> None:
    from taskservice.worker.launch import run_worker

    app.conf.worker_send_task_events = bool(config["events"])
    run_worker(
        app=app,
        settings=settings,
        # All that the app consumes or routes to: what is loaded here is nobody else's.
        queues=queue_names(app, settings.queues, config["queues"]),
        pool=config["pool"],
        concurrency=config["concurrency"],
        loglevel="WARNING",
    )


if __name__ == "__main__":
    main()
