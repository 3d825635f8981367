"""What stories on the task service's own app need of a process that other tests run in, too."""

from __future__ import annotations

import pytest

from taskservice.tasks import TaskRegistry


@pytest.fixture(autouse=True)
def _no_tasks_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have apps know no task that another test module has defined: its limits may not suit a story."""
    registry = TaskRegistry()
    for place in ("taskservice.backends.app", "taskservice.worker.install"):
        monkeypatch.setattr(f"{place}.default_registry", registry)
