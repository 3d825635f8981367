"""What makes a Celery worker one of ours, whoever made its app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskservice.backends.packed import register_packed
from taskservice.worker.cancel import install_cancel
from taskservice.worker.heartbeat import install_heartbeat

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["install_worker"]


def install_worker(app: Celery, settings: Settings) -> None:
    """Have workers of ``app`` do all that ours do; a second call does nothing.

    They know packed messages, beat, and stop a run that is cancelled while it runs.
    """
    register_packed(app)
    install_heartbeat(app, settings)
    install_cancel(app)
