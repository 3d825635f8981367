"""Apps that run tasks by their own eager mode while a test is in a world that sends tasks to workers.

Such tests pass as they did before, which is easily taken for the world's verdict.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

import pytest

from pytest_taskservice.fixtures import APP
from pytest_taskservice.sightings import Sightings
from pytest_taskservice.worlds import unseeded, world_of

__all__ = ["Elsewhere"]

_SENDING = ("celery", "celery-sim")
_TASKS = "celery.app.task"
_WORDS = (
    "tasks of the app {app} ran by its own task_always_eager, so in no world: a fixture taskservice_app that "
    "returns that app puts it into the test's world"
)


class Elsewhere(Sightings):
    """Says what a session's tests have run in no world."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config, name="taskservice-elsewhere", words=_WORDS)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Watch a test that is in a world which sends its app's tasks to workers."""
        if unseeded(world_of(item)) not in _SENDING or _TASKS not in sys.modules:
            return (yield)
        with self._watching(item):
            return (yield)

    @contextmanager
    def _watching(self, item: pytest.Item) -> Iterator[None]:
        # By what apply() has made for each run: a class that is changed in each test grows slow (Patches).
        trace: Any = import_module("celery.app.trace")
        original = trace.build_tracer
        watched = True

        @wraps(original)
        def build_tracer(name: Any, task: Any, *args: Any, **options: Any) -> Any:
            # Whoever wraps it during the test, as tracers of others do, may keep it for good.
            if watched and options.get("eager"):
                app: Any = task.app
                if app.conf.task_always_eager and item.stash.get(APP, app) is not app:
                    self.note(app, item.nodeid)
            return original(name, task, *args, **options)

        trace.build_tracer = build_tracer
        try:
            yield
        finally:
            watched = False
            if trace.build_tracer is build_tracer:
                trace.build_tracer = original
