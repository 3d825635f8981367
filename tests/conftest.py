"""Which tests are thorough: they say little about a Python version, and CI runs them on one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each starts, stops and kills workers of its own, or pytest in processes of its own.
FOLDERS = frozenset({"plugin"})
MODULES = frozenset(
    {
        "test_canary.py",
        "test_chaos.py",
        "test_dead_letters_worker.py",
        "test_nothing_lost.py",
        "test_stopping.py",
        "test_stories.py",
        "test_traces.py",
        "test_workflow_workers.py",
    }
)
WORLDS = frozenset({"celery-rabbitmq", "celery-solo", "celery-threads"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        given = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        ours = item.path.name in MODULES or item.path.parent.name in FOLDERS
        if ours or given.get("world") in WORLDS:
            item.add_marker("thorough")
