"""The Celery app that the service and its workers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery

from taskservice.backends.configuration import celery_config
from taskservice.backends.definitions import register_definitions
from taskservice.backends.packed import register_packed
from taskservice.errors import ConfigurationError
from taskservice.tasks import default_registry

if TYPE_CHECKING:
    from taskservice.settings import Settings

__all__ = ["build_app", "build_bare_app"]


def build_app(settings: Settings) -> Celery:
    """Return an app with ``settings``, its imports imported and their definitions registered."""
    app = build_bare_app(settings)
    for module in settings.imports:
        try:
            app.loader.import_task_module(module)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"put {module!r} on the import path, or take it out of imports: {error}"
            ) from error
    register_definitions(app, default_registry, payload_limit=settings.payload_limit)
    register_packed(app)
    return app


def build_bare_app(settings: Settings) -> Celery:
    """Return an app with ``settings`` that knows no task: for looking at the broker."""
    app = Celery("taskservice", set_as_current=False)
    app.conf.update(celery_config(settings))
    return app
