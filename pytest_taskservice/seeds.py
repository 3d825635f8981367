"""Tests in simulations: their report, a run that must be the double of another, and a failure that is shrunk.

A plugin of its own, registered where celery-sim is among the chosen worlds. Leans on
``_pytest.runner.runtestprotocol``, as all plugins do that run tests again.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

from pytest_taskservice.again import leave, run_again
from pytest_taskservice.fixtures import WORLD
from pytest_taskservice.played import story_of
from pytest_taskservice.shrunk import explain_story
from pytest_taskservice.worlds import is_simulated, replay_command

if TYPE_CHECKING:
    from pytest_taskservice.options import HarnessOptions
    from pytest_taskservice.simulator.shrinking import Failure, Shrunk
    from pytest_taskservice.simulator.story import Story

__all__ = ["Seeds"]

_SECTION = "taskservice simulation"
_NOT_JUDGED = (KeyboardInterrupt, pytest.exit.Exception, pytest.skip.Exception)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ending:
    """How the call of a test ended; ``failure`` is ``None`` if it passed."""

    story: Story
    failure: Failure | None


_ENDING = pytest.StashKey["_Ending | None"]()
_FIRST = pytest.StashKey["_Ending | None"]()


class Seeds:
    """Hooks for the tests of a session in the celery-sim world."""

    def __init__(self, options: HarnessOptions) -> None:
        self._options = options
        self._shrunk: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a test once before, to compare; or keep its report back until its failure is shrunk."""
        if not is_simulated(item) or item.config.getoption("setuponly", default=False):
            return None
        item.stash[_FIRST] = _run(item) if self._options.check_determinism else None
        # Whoever debugs has been at the failure itself.
        is_story = story_of(item) is not None
        if not (self._options.seeded or is_story) or item.config.getoption("usepdb", default=False):
            return None

        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        self._explain(item, nextitem, reports)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Keep what happened, and compare it with the run before."""
        error: BaseException | None = None
        result = None
        try:
            result = yield
        except BaseException as found:  # noqa: BLE001 - raised again below
            error = found
        ending = item.stash[_ENDING] = _ending_of(item, error)
        first = item.stash.get(_FIRST, None)
        if error is not None:
            raise error
        if first is not None and ending is not None and (text := _difference(first, ending)):
            pytest.fail(f"taskservice: {text}", pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach to a failing test its seed, its story and how to replay it."""
        report = yield
        ending = item.stash.get(_ENDING, None)
        if report.failed and call.when == "call" and ending is not None and ending.story.notes:
            # A scenario's own report has told that.
            if story_of(item) is None:
                report.sections.append((_SECTION, self._told(item, ending)))
            first = item.stash.get(_FIRST, None)
            # Where that is the failure itself, it has been told.
            if first is not None and ending.failure is not None and (text := _difference(first, ending)):
                report.sections.append(("taskservice determinism", text))
        return report

    def _explain(
        self, item: pytest.Item, nextitem: pytest.Item | None, reports: list[pytest.TestReport]
    ) -> None:
        """Shrink the failure of a test, that of its first failing seed."""
        ending = item.stash.get(_ENDING, None)
        failed = [report for report in reports if report.when == "call" and report.failed]
        test = item.nodeid.partition("[")[0]
        if not failed or ending is None or ending.failure is None or test in self._shrunk:
            return
        if story_of(item) is not None:
            self._shrunk.add(test)
            try:
                explain_story(item, failed[0], self._options)
            finally:
                leave(item, nextitem)
            return
        if not ending.story.notes:
            return
        self._shrunk.add(test)
        try:
            shrunk = _shrink(item, ending)
        finally:
            leave(item, nextitem)
        told = (_SECTION, self._told(item, ending, shrunk))
        failed[0].sections = [
            told if title == _SECTION else (title, text) for title, text in failed[0].sections
        ]

    def _told(self, item: pytest.Item, ending: _Ending, shrunk: Shrunk | None = None) -> str:
        from pytest_taskservice.report.simulation import render_simulation

        story = ending.story
        return render_simulation(
            story, replay=replay_command(item, self._options, seed=story.seed), shrunk=shrunk
        )


def _run(item: pytest.Item) -> _Ending | None:
    item.stash[_FIRST] = item.stash[_ENDING] = None
    run_again(item)
    return item.stash[_ENDING]


def _ending_of(item: pytest.Item, error: BaseException | None) -> _Ending | None:
    driver: Any = item.stash.get(WORLD, None)
    if driver is None or driver.name != "celery-sim" or isinstance(error, _NOT_JUDGED):
        return None
    from pytest_taskservice.simulator.shrinking import failure_of

    return _Ending(story=driver.story, failure=None if error is None else failure_of(error, str(item.path)))


def _difference(first: _Ending, second: _Ending) -> str | None:
    from pytest_taskservice.report.simulation import render_difference

    text = render_difference(first.story, second.story)
    if text is None and first.failure != second.failure:
        kinds = [failure.kind if failure else "nothing" for failure in (first.failure, second.failure)]
        return f"the same happened twice, but the first run raised {kinds[0]} and the second {kinds[1]}"
    return text


def _shrink(item: pytest.Item, ending: _Ending) -> Shrunk:
    from pytest_taskservice.simulator.shrinking import shrink

    driver: Any = item.stash[WORLD]

    def again(draws: int) -> Story | None:
        driver.calm_after = draws
        found = _run(item)
        return found.story if found is not None and found.failure == ending.failure else None

    try:
        return shrink(ending.story, again)
    finally:
        driver.calm_after = None
