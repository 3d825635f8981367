"""What a session's tests were seen to do with apps: said where they fail, and once at the session's end."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["Sightings"]


class Sightings:
    """Registered as a plugin, which ``name`` is unique to. ``words`` say it of ``{app}``."""

    def __init__(self, config: pytest.Config, *, name: str, words: str) -> None:
        self.name = name
        self._config, self._words = config, words
        self._tests: dict[str, list[str]] = {}

    def note(self, app: Celery, nodeid: str) -> None:
        """Note that a test did it with ``app``."""
        self._note(str(app.main or "without a name"), nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say it where the test fails."""
        report = yield
        if report.failed and call.when == "call":
            apps = [app for app, tests in self._tests.items() if item.nodeid in tests]
            report.sections += [("taskservice", self._words.format(app=repr(app))) for app in apps]
        return report

    def pytest_sessionfinish(self) -> None:
        """Have xdist's controller say it."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[self.name] = self._tests

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what one of xdist's workers has seen."""
        for app, tests in getattr(node, "workeroutput", {}).get(self.name, {}).items():
            for nodeid in tests:
                self._note(app, nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say it where tests pass."""
        for app, tests in self._tests.items():
            many = f"{len(tests)} tests" if len(tests) > 1 else "a test"
            words = self._words.format(app=repr(app))
            terminalreporter.write_line(f"taskservice: in {many}, first {tests[0]}, {words}")

    def _note(self, app: str, nodeid: str) -> None:
        tests = self._tests.setdefault(app, [])
        if nodeid not in tests:
            tests.append(nodeid)
