"""How far a long exploration is: a line on a terminal, and no thousand dots anywhere.

An exploration is one scenario in one world with many seeds. Leans on what pytest's terminal reporter knows of
its line, ``_tw`` and ``_width_of_current_line``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["Progress"]

# So many dots still fit on a line.
_MANY = 50
_SECONDS = 0.1
# The cursor stays where the next letter goes.
_KEEP, _BACK, _CLEAR = "\x1b7", "\x1b8", "\x1b[K"


@dataclass(kw_only=True)
class _Exploration:
    name: str
    whole: int
    since: float
    played: int = 0
    failed: int = 0

    def told(self, now: float) -> str:
        """Return the line: how many there were, and how long the rest will take."""
        left = (now - self.since) / self.played * (self.whole - self.played) if self.played else 0.0
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.name}: {self.played}/{self.whole} seeds{failed}, {left:.1f} s left"


class Progress:
    """Hooks of the process that has the terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._found: dict[tuple[str, ...], _Exploration] = {}
        self._last = 0.0
        self._shown = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """Let a long exploration have one dot, its last, and a letter for each seed that did not pass."""
        told = getattr(report, "taskservice_play", None)
        if told is None or report.when != "call" or told["of"] < _MANY:
            return None
        here = self._found.setdefault(tuple(told["story"]), _started(told))
        if report.outcome != "passed" or self._verbosity() > 0:
            return None
        return "passed", "." if here.played + 1 >= here.whole else "", "PASSED"

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a play, and show how far it is."""
        told = getattr(report, "taskservice_play", None)
        here = self._found.get(tuple(told["story"])) if told is not None else None
        if here is None:
            return
        here.played += 1
        here.failed += bool(report.failed)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        """Show how far the exploration is; not before the test has left its world, whose time is another."""
        here = next(reversed(self._found.values()), None)
        if here is None or not (self._shown or here.played < here.whole) or not self._has_line():
            return
        now = time.monotonic()
        done = here.played >= here.whole
        if not done and now - self._last < _SECONDS:
            return
        self._last = now
        self._write("" if done else here.told(now))
        self._shown = not done

    def pytest_sessionfinish(self) -> None:
        """Leave nothing behind where a session was broken off."""
        if self._shown:
            self._write("")

    def _verbosity(self) -> int:
        verbosity: int = self._config.getoption("verbose")
        return verbosity

    def _terminal(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def _has_line(self) -> bool:
        """Tell whether there is a terminal with a line for us: plain, and not shared with other processes."""
        terminal = self._terminal()
        alone = self._config.getoption("dist", "no") == "no" and not hasattr(self._config, "workerinput")
        return alone and self._verbosity() == 0 and terminal is not None and terminal.isatty

    def _write(self, text: str) -> None:
        writer = self._terminal()._tw  # noqa: SLF001 - the only way to write without moving its line
        room = writer.fullwidth - writer.width_of_current_line - 3
        shown = f"  {text[:room]}" if text and room > 20 else ""
        file = writer._file  # noqa: SLF001 - as above
        file.write(f"{_KEEP}{shown}{_CLEAR}{_BACK}")
        file.flush()


def _started(told: Any) -> _Exploration:
    return _Exploration(name=told["story"][1], whole=told["of"], since=time.monotonic())
