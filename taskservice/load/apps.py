"""The Celery app that is loaded: one of the settings, or somebody's own, on its own broker or on ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from taskservice.backends.app import build_app
from taskservice.worker.launch import find_app

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["open_app"]


def open_app(name: str | None, settings: Settings, *, redirect: str = "") -> Celery:
    """Return the app called ``package.module:attribute``, or else one made of ``settings``.

    ``redirect`` is a Redis that takes the place of its broker and result backend, in this process alone.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if name is None:
        return build_app(settings)

    app = find_app(name)
    if redirect:
        app.conf.update(
            broker_url=redirect,
            broker_read_url=redirect,
            broker_write_url=redirect,
            result_backend=redirect,
            broker_transport_options={},
            result_backend_transport_options={},
        )
    return app
