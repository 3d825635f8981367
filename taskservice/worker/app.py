"""The app that workers run: ``celery -A taskservice.worker.app worker`` finds ``app`` here."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

    app: Celery

__all__ = ["app", "create_app"]


def create_app(settings: Settings | None = None) -> Celery:
    """Return a Celery app with ``settings``, by default the environment's, whose workers beat."""
    # Celery finds this module by importing it, and so may anybody: it costs nothing.
    from taskservice.backends.app import build_app
    from taskservice.settings import load_settings
    from taskservice.worker.install import install_worker

    given = load_settings() if settings is None else settings
    made = build_app(given)
    install_worker(made, given)
    return made


@cache
def _shared_app() -> Celery:
    return create_app()


def __getattr__(name: str) -> Any:
    if name == "app":
        return _shared_app()

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
