"""What makes a worker process one that executes and sweeps the workflow runs of stories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.workflow_synthetic import synthetic_workflow
from taskservice.backends.configuration import KEY_PREFIX, REDIS_URL
from taskservice.settings import load_settings
from taskservice.workflow.definitions import default_workflows
from taskservice.workflow.install import install_workflows

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["install", "place_of"]


def install(app: Celery) -> None:
    """Have workers of ``app`` take part, with the runs where the world has told the app to keep things.

    The steps of synthetic workflows come with each run, so no story needs a worker of its own.
    """
    default_workflows.register(synthetic_workflow())
    # Over the app's own settings, which may name a Redis that is not the test's.
    install_workflows(app, load_settings(workflow_store="redis", **place_of(app)))


def place_of(app: Celery) -> dict[str, Any]:
    """Return where the world keeps workflow runs, as fields of `Settings`."""
    return {"redis_url": app.conf[REDIS_URL], "key_prefix": app.conf[KEY_PREFIX]}
