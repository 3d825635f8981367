"""Plays of scenarios in a session: what each tells its report, and what all of them say together.

A plugin of its own. Each process that plays writes down what one play was; the process that the user started
hears of all plays, through the reports of their tests, and judges what only many of them can show.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.fixtures import HARNESS, WORLD
from pytest_taskservice.worlds import replay_command, replay_in, unseeded, world_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_taskservice.drivers.base import WorldDriver
    from pytest_taskservice.options import HarnessOptions
    from pytest_taskservice.report.play import Play
    from pytest_taskservice.report.stories import Judged, Stories
    from pytest_taskservice.scenario.engine import Verdict
    from pytest_taskservice.scenario.model import Scenario

__all__ = ["PLAY", "Played", "failure_report", "keep", "story_of"]

PLAY = pytest.StashKey["Play | None"]()
_OF = pytest.StashKey[int]()
_RECORD = pytest.StashKey["_Kept | None"]()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """What is recorded of a test between its end and its world's."""

    found: dict[str, Any]
    outcome: str
    message: str


def story_of(item: pytest.Item) -> tuple[str, str, str] | None:
    """Return what all seeds of one test have in common: file, title, world; ``None`` if it is no scenario."""
    scenario: Scenario | None = getattr(item, "scenario", None)
    if scenario is None:
        return None
    return item.nodeid.partition("::")[0], scenario.title, unseeded(getattr(item, "world", ""))


def keep(item: pytest.Item, verdict: Verdict, *, backend: str) -> Play:
    """Return what was played by ``item``, and keep it for its reports."""
    from pytest_taskservice.report.files import record_path, shown_path
    from pytest_taskservice.report.play import Play

    driver: Any = item.stash.get(WORLD, None)
    options = item.config.stash[HARNESS].options
    found: Any = item
    simulated = backend == "celery-sim"
    seed = verdict.seed if verdict.seed is not None else driver.seed if simulated else None
    play = item.stash[PLAY] = Play(
        scenario=found.scenario,
        verdict=verdict,
        backend=backend,
        world=found.world,
        replay=_replay(item, options, backend, seed if simulated else None),
        seed=seed,
        digest=verdict.digest or (driver.digest if simulated else ""),
        options=_chosen(options, backend),
        lines=() if verdict.passed else _lines_of(item.path),
        record="" if options.report is None else shown_path(record_path(options.report, item.nodeid)),
    )
    # They are read from the reports of the call and of the teardown.
    item.user_properties[:] = [*item.user_properties, *_properties(play)]
    return play


def failure_report(text: str, *, path: str, line: int, message: str) -> Any:
    """Return ``text`` as pytest keeps a failure: ``message`` is what summaries and JUnit XML show of it."""
    from _pytest._code.code import ReprEntryNative, ReprExceptionInfo, ReprFileLocation, ReprTraceback

    entry = ReprEntryNative([f"{one}\n" for one in text.splitlines()])
    return ReprExceptionInfo(
        reprcrash=ReprFileLocation(path, line, message),
        reprtraceback=ReprTraceback([entry], None, style="native"),
    )


class Played:
    """Hooks of every process of a session; the user's own also judges."""

    def __init__(self, config: pytest.Config, options: HarnessOptions) -> None:
        self._options = options
        self._is_controller = not hasattr(config, "workerinput")
        self._compared: set[tuple[Any, ...]] = set()
        self._stories: Stories | None = None
        self._unwritten = ""
        if options.report is not None:
            _make(options.report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Count the seeds of each scenario before any of them is left out."""
        groups: dict[tuple[str, str, str], list[pytest.Item]] = {}
        for item in items:
            if (story := story_of(item)) is not None:
                groups.setdefault(story, []).append(item)
        for group in groups.values():
            whole = max(len(group), self._seeds_of(group[0]))
            for item in group:
                item.stash[_OF] = whole
        if config.getoption("lf", default=False):
            _play_again(config, groups)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Have the report of a play say what came of it; write it down when its world is left."""
        report = yield
        if call.when == "call" and (play := item.stash.get(PLAY, None)) is not None:
            report.taskservice_play = self._told(item, play, passed=report.passed)  # type: ignore[attr-defined]
            if not any(_calls(play.scenario)):
                # All that our own tasks could tell the log stands in the report.
                report.sections = [one for one in report.sections if one[0] != "Captured log call"]
        if self._options.report is not None:
            self._record(item, report)
        play = item.stash.get(PLAY, None)
        # A failure may still be shrunk.
        if call.when == "teardown" and play is not None and play.verdict.passed:
            item.stash[PLAY] = None
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hear of a play, wherever it was."""
        self._unwritten = self._unwritten or getattr(report, "taskservice_unwritten", "")
        if self._is_controller and hasattr(report, "taskservice_play"):
            self._all().hear(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """When all is played, fail what should have held sometimes and never did."""
        result = yield
        # Here a failure still counts for the exit code.
        if self._stories is not None:
            for judged in self._stories.judge():
                # One test more, or more than all would have been run.
                session.testscollected += bool(judged.text)
                _report(session.config, judged)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Say in each failure how its scenario went elsewhere; draw what was written down."""
        if self._stories is not None:
            self._stories.compare()
        if self._options.report is not None and self._is_controller:
            from pytest_taskservice.report.html import write_pages

            try:
                write_pages(self._options.report)
            except OSError as error:
                self._unwritten = self._unwritten or str(error)
            if self._unwritten and session.exitstatus == pytest.ExitCode.OK:
                # Whoever asked for the records is not told that all is well.
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was not judged, and where the records are."""
        if self._stories is not None:
            for line in self._stories.notes():
                terminalreporter.write_line(line)
        if self._options.report is not None and self._is_controller:
            shown = f"reports: {self._options.report / 'index.html'}"
            lacking = f"--taskservice-report: not all could be written: {self._unwritten}"
            terminalreporter.write_line(f"taskservice: {lacking if self._unwritten else shown}")

    def _all(self) -> Stories:
        if self._stories is None:
            from pytest_taskservice.report.stories import Stories

            self._stories = Stories()
        return self._stories

    def _seeds_of(self, item: pytest.Item) -> int:
        """Return how many seeds the file or the command line asks for, whatever was selected of them."""
        found: Any = item
        if found.world == unseeded(found.world):
            # Where nothing is drawn from a seed a story of many is played once.
            return max(len(found.scenario.seeds), 1)
        return max(len(found.scenario.seeds), self._options.seeds if self._options.seeded else 1)

    def _told(self, item: pytest.Item, play: Play, *, passed: bool) -> dict[str, Any]:
        """Return as plain data what the user's process has to know of a play."""
        story = story_of(item) or (item.nodeid, play.scenario.title, play.world)
        told: dict[str, Any] = {
            "story": list(story),
            "mark": str(play.scenario.mark),
            "line": play.scenario.mark.line,
            "seed": play.seed,
            "of": item.stash.get(_OF, 1),
            "passed": passed,
            "sometimes": dict(play.verdict.sometimes),
            "replay": play.replay,
        }
        # One course of each kind is enough to compare, and there may be thousands.
        if (*story, passed) not in self._compared:
            from pytest_taskservice.report.parting import course_of

            self._compared.add((*story, passed))
            told["course"] = {
                label: [list(event) for event in events] for label, events in course_of(play.verdict).items()
            }
        if play.verdict.sometimes:
            told["asked"] = {
                str(claim.mark): _asked(claim)
                for claim in play.scenario.expect
                if str(claim.mark) in play.verdict.sometimes
            }
        return told

    def _record(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Keep what a test's world knows when it ends, and write it when the world is left."""
        from pytest_taskservice.report import record

        if report.when == "call" and (driver := item.stash.get(WORLD, None)) is not None:
            play = item.stash.get(PLAY, None)
            found = record.of_play(play) if play is not None else self._of_test(item, driver)
            item.stash[_RECORD] = _Kept(found=found, outcome=report.outcome, message=_message(report))
        elif report.when == "teardown" and (kept := item.stash.get(_RECORD, None)) is not None:
            # Not before: its world had a time of its own.
            item.stash[_RECORD] = None
            try:
                record.save(kept.found, nodeid=item.nodeid, outcome=kept.outcome, message=kept.message)
            except OSError as error:
                report.taskservice_unwritten = str(error)  # type: ignore[attr-defined]

    def _of_test(self, item: pytest.Item, driver: WorldDriver) -> dict[str, Any]:
        from pytest_taskservice.report.record import of_test

        assert self._options.report is not None
        world = world_of(item) or driver.name
        seed = getattr(driver, "seed", None) if driver.name == "celery-sim" else None
        replay = _replay(item, self._options, driver.name, seed)
        return of_test(driver, directory=self._options.report, nodeid=item.nodeid, world=world, replay=replay)


def _calls(scenario: Scenario) -> Iterator[str]:
    """Yield what is played of the user's own."""
    yield from filter(None, (task.call for task in scenario.tasks.values()))
    yield from filter(None, (flow.call for flow in scenario.workflows.values()))


def _message(report: pytest.TestReport) -> str:
    found: Any = report.longrepr
    if report.skipped and isinstance(found, tuple):
        return str(found[2])
    crash = getattr(found, "reprcrash", None)
    return str(crash.message if crash is not None else found or "").partition("\n")[0]


def _asked(claim: Any) -> str:
    wanted = ", ".join(f"{key} {value}" for key, value in claim.wanted.items())
    return f"{claim.of}: sometimes {wanted}"


def _properties(play: Play) -> Iterator[tuple[str, object]]:
    verdict = play.verdict
    yield "taskservice_scenario", play.scenario.title
    yield "taskservice_place", f"{play.scenario.mark.path}:{play.scenario.mark.line}"
    yield "taskservice_world", play.world
    if play.seed is not None:
        yield "taskservice_seed", play.seed
    if play.digest:
        yield "taskservice_digest", play.digest
    yield "taskservice_verdict", "passed" if verdict.passed else "failed"
    yield "taskservice_replay", play.replay
    if play.record:
        yield "taskservice_record", play.record


def _chosen(options: HarnessOptions, backend: str) -> dict[str, Any]:
    if backend in ("celery-sim", "anyio"):
        start = {"start": options.start.isoformat()}
        return start | ({"concurrency": options.concurrency} if backend == "celery-sim" else {})
    return {"pool": options.pool, "concurrency": options.concurrency} if backend == "celery" else {}


def _replay(item: pytest.Item, options: HarnessOptions, backend: str, seed: int | None) -> str:
    if seed is not None:
        return replay_command(item, options, seed=seed)
    return replay_in(item, options, backend=backend)


def _lines_of(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return ()


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = (
            f"taskservice: --taskservice-report={directory}: cannot make this directory: {error.strerror}"
        )
        raise pytest.UsageError(message) from None


def _play_again(config: pytest.Config, groups: dict[tuple[str, str, str], list[pytest.Item]]) -> None:
    """Where what should hold sometimes never did, the last failure is that of all seeds."""
    from pytest_taskservice.report.stories import pseudo_id

    failed: Any = getattr(config.pluginmanager.get_plugin("lfplugin"), "lastfailed", {})
    for story, items in groups.items():
        if any(pseudo_id(*story) == str(known) for known in failed):
            failed.update({getattr(item, "id", item.nodeid): True for item in items})


def _report(config: pytest.Config, judged: Judged) -> None:
    """Fail what all plays should have shown and did not; forget an earlier failure of it otherwise."""
    path, _, name = judged.node.partition("::")
    if not judged.text:
        failed: Any = getattr(config.pluginmanager.get_plugin("lfplugin"), "lastfailed", {})
        for known in [known for known in failed if str(known) == judged.node]:
            del failed[known]
        return
    report = pytest.TestReport(
        nodeid=judged.node,
        location=(path, judged.line - 1, name),
        keywords={},
        outcome="failed",
        longrepr=failure_report(judged.text, path=path, line=judged.line, message=judged.message),
        when="call",
        user_properties=[("taskservice_world", judged.world), ("taskservice_place", judged.place)],
    )
    config.hook.pytest_runtest_logreport(report=report)
