"""What makes a worker process one that executes and sweeps the workflow runs of stories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.drivers.workflow_synthetic import synthetic_workflow
from taskservice.settings import load_settings
from taskservice.workflow.definitions import default_workflows
from taskservice.workflow.install import install_workflows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

__all__ = ["install"]


def install(app: Celery, place: Mapping[str, str]) -> None:
    """Have workers of ``app`` take part, with the runs at ``place``: a ``redis_url`` and a ``key_prefix``.

    The steps of synthetic workflows come with each run, so no story needs a worker of its own.
    """
    default_workflows.register(synthetic_workflow())
    # Over the app's own settings, which may name a Redis that is not the test's.
    install_workflows(app, load_settings(workflow_store="redis", **place))
