"""Apps that run tasks by their own eager mode while a test is in a world that sends tasks to workers.

Such tests pass as they did before, which is easily taken for the world's verdict.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_taskservice.fixtures import APP
from pytest_taskservice.worlds import unseeded, world_of

__all__ = ["Elsewhere"]

_SENDING = ("celery", "celery-sim")
_TASKS = "celery.app.task"
_OUTPUT = "taskservice_elsewhere"
_ADVICE = (
    "ran by its own task_always_eager, so in no world: a fixture taskservice_app that returns that app puts "
    "it into the test's world"
)


class Elsewhere:
    """Registered as a plugin: says what a session's tests have run in no world."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tests: dict[str, list[str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Watch a test that is in a world which sends its app's tasks to workers."""
        if unseeded(world_of(item)) not in _SENDING or _TASKS not in sys.modules:
            return (yield)
        with self._watching(item):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say it where the test fails."""
        report = yield
        apps = [repr(app) for app, tests in self._tests.items() if item.nodeid in tests]
        if report.failed and call.when == "call" and apps:
            report.sections.append(("taskservice", f"tasks of the app {', '.join(apps)} {_ADVICE}"))
        return report

    def pytest_sessionfinish(self) -> None:
        """Have xdist's controller say it."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_OUTPUT] = self._tests

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what one of xdist's workers has seen."""
        for app, tests in getattr(node, "workeroutput", {}).get(_OUTPUT, {}).items():
            for nodeid in tests:
                self._note(app, nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say it where tests pass."""
        for app, tests in self._tests.items():
            many = f"{len(tests)} tests" if len(tests) > 1 else "a test"
            terminalreporter.write_line(
                f"taskservice: in {many}, first {tests[0]}, tasks of the app {app!r} {_ADVICE}"
            )

    @contextmanager
    def _watching(self, item: pytest.Item) -> Iterator[None]:
        tasks: Any = sys.modules[_TASKS].Task
        original = tasks.apply

        def apply(task: Any, *args: Any, **kwargs: Any) -> Any:
            app: Any = task.app
            if app.conf.task_always_eager and item.stash.get(APP, app) is not app:
                self._note(str(app.main or "without a name"), item.nodeid)
            return original(task, *args, **kwargs)

        tasks.apply = apply
        try:
            yield
        finally:
            # Whoever has put another over it in the meantime takes that back himself.
            if vars(tasks).get("apply") is apply:
                tasks.apply = original

    def _note(self, app: str, nodeid: str) -> None:
        tests = self._tests.setdefault(app, [])
        if nodeid not in tests:
            tests.append(nodeid)
