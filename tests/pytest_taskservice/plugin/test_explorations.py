"""Many seeds of one scenario: what must hold sometimes, over all processes, and how far they are."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

# Plays whose verdicts stand in a file: what becomes of verdicts is the same whoever made them.
_CONFTEST = """
import json

import pytest

from pytest_taskservice.history import EventLog
from pytest_taskservice.played import keep
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.engine import Verdict
from pytest_taskservice.scenario.model import Expectation, Property, Scenario


class PlayFile(pytest.File):
    def collect(self):
        said = json.loads(self.path.read_text())
        for seed in said["seeds"]:
            yield Play.from_parent(self, name=f"{said['name']}[celery-sim-seed={seed}]", said=said, seed=seed)


class Play(pytest.Item):
    def __init__(self, *, said, seed, **node):
        super().__init__(**node)
        self.said, self.seed = said, seed
        self.world = f"celery-sim-seed={seed}"
        mark = Mark(path=self.path.name, line=9, column=7)
        claim = Expectation(
            mark=mark, property=Property.SOMETIMES, of="workers", wanted={"all_occupied": True}
        )
        self.scenario = Scenario(
            mark=Mark(path=self.path.name, line=1, column=1),
            name=said["name"],
            seeds=tuple(said["asked"]),
            expect=(claim,),
        )

    def runtest(self):
        keep(self, Verdict(
            log=EventLog(), start=0.0, runs={}, outcomes={}, mismatches=(), seed=self.seed, digest="d",
            sometimes={str(self.scenario.expect[0].mark): self.seed in self.said["held"]},
        ), backend="celery-sim")
        assert self.seed not in self.said["failed"]


def pytest_collect_file(file_path, parent):
    return PlayFile.from_parent(parent, path=file_path) if file_path.suffix == ".plays" else None
"""


class Plays:
    """A project with plays in files."""

    def __init__(self, downstream: Downstream) -> None:
        self._downstream = downstream
        self.root = downstream.root
        self.root.joinpath("conftest.py").write_text(_CONFTEST, "utf-8")
        self.root.joinpath("pytest.ini").write_text("[pytest]\naddopts = -p taskservice\n", "utf-8")

    def write(self, name: str, *, seeds: int, **said: Any) -> None:
        known = {"name": name, "seeds": [*range(seeds)], "asked": [*range(seeds)], "held": [], "failed": []}
        self.root.joinpath(f"{name}.plays").write_text(json.dumps(known | said), "utf-8")

    def run(self, *args: str) -> pytest.RunResult:
        return self._downstream.run(*args)

    def run_on_terminal(self, *args: str) -> str:
        """Return what a terminal of 100 columns was sent."""
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "pytest", *args]
        environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
        told = b""
        with subprocess.Popen(command, cwd=self.root, stdout=theirs, stderr=theirs, env=environment):
            os.close(theirs)
            try:
                while chunk := os.read(ours, 65_536):
                    told += chunk
            except OSError:
                # The other side is closed.
                pass
        os.close(ours)
        return told.decode()


@pytest.fixture
def plays(downstream: Downstream) -> Plays:
    return Plays(downstream)


XDIST = pytest.mark.parametrize("processes", [(), ("-p", "xdist", "-n2")], ids=["alone", "xdist"])


@XDIST
def test_what_holds_with_one_seed_of_all_held_sometimes(plays: Plays, processes: tuple[str, ...]) -> None:
    plays.write("busy", seeds=6, held=[4])

    result = plays.run(*processes)

    result.assert_outcomes(passed=6)
    assert result.ret == 0


@XDIST
def test_what_never_holds_fails_once(plays: Plays, processes: tuple[str, ...]) -> None:
    plays.write("busy", seeds=6)

    result = plays.run("--junitxml=junit.xml", *processes)

    result.assert_outcomes(passed=6, failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*_ busy sometimes?celery-sim? _*",
            "what should hold sometimes held in none of 6 plays in celery-sim",
            "",
            "  busy.plays:9:7",
            "    expected  workers: sometimes all_occupied True",
            "    got       never",
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines(["FAILED busy.plays::busy sometimes?celery-sim? - workers: *"])
    suite = next(ET.parse(plays.root / "junit.xml").getroot().iter("testsuite"))
    assert (suite.get("failures"), suite.get("tests")) == ("1", "7")
    assert "[100%]" in str(result.stdout)
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "workers: sometimes all_occupied True; got never, in 6 plays"


def test_one_seed_is_judged_where_there_is_one(plays: Plays) -> None:
    plays.write("busy", seeds=1, asked=[])

    result = plays.run()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["what should hold sometimes held in none of 1 play in celery-sim"])


@pytest.mark.parametrize(
    "chosen",
    [
        [f"--deselect=busy.plays::busy[celery-sim-seed={seed}]" for seed in (0, 1, 3, 4, 5)],
        ["busy.plays::busy[celery-sim-seed=2]"],
    ],
    ids=["deselected", "named"],
)
def test_some_seeds_of_many_are_not_judged_and_that_is_said(plays: Plays, chosen: list[str]) -> None:
    plays.write("busy", seeds=6)

    result = plays.run(*chosen)

    assert result.ret == 0
    result.assert_outcomes(passed=1, deselected=5 if len(chosen) > 1 else 0)
    said = "taskservice: sometimes was not judged in 1 scenario: not all of its seeds were played"
    assert result.outlines.count(said) == 1


def test_a_replay_of_one_seed_is_not_judged(plays: Plays) -> None:
    plays.write("busy", seeds=1, asked=[0, 1, 2])

    result = plays.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["taskservice: sometimes was not judged in 1 scenario: *"])


@XDIST
def test_a_session_that_stops_early_is_not_judged(plays: Plays, processes: tuple[str, ...]) -> None:
    plays.write("busy", seeds=40, failed=[0])

    result = plays.run("-x", *processes)

    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert "sometimes - " not in str(result.stdout)


def test_a_failed_play_is_one_of_all(plays: Plays) -> None:
    plays.write("busy", seeds=3, failed=[1], held=[1])

    result = plays.run()

    result.assert_outcomes(passed=2, failed=1)


def test_last_failed_plays_all_seeds_again_and_forgets_what_holds(plays: Plays) -> None:
    plays.write("busy", seeds=3)
    plays.write("idle", seeds=2, held=[0])
    plays.run().assert_outcomes(passed=5, failed=1)

    plays.run("--lf").assert_outcomes(passed=3, failed=1)

    plays.write("busy", seeds=3, held=[2])
    plays.run("--lf").assert_outcomes(passed=3)

    result = plays.run("--lf")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["run-last-failure: no previously failed tests, not deselecting items."])


def test_a_long_exploration_has_no_dot_for_each_seed(plays: Plays) -> None:
    plays.write("busy", seeds=120, held=[0], failed=[7, 60])

    result = plays.run()

    result.assert_outcomes(passed=118, failed=2)
    result.stdout.re_match_lines([r"busy\.plays FF\. +\[100%\]"])
    assert "seeds" not in str(result.stdout).partition("FAILURES")[0]


def test_each_seed_is_told_to_whoever_asks(plays: Plays) -> None:
    plays.write("busy", seeds=60, held=[0])

    result = plays.run("-v")

    assert sum("PASSED" in line for line in result.outlines) == 60


def test_a_short_one_has_its_dots(plays: Plays) -> None:
    plays.write("busy", seeds=20, held=[0])

    result = plays.run()

    result.stdout.re_match_lines([r"busy\.plays \.{20} +\[100%\]"])


def test_a_terminal_shows_how_far_a_long_exploration_is(plays: Plays) -> None:
    plays.write("busy", seeds=150, held=[0], failed=[3])

    told = plays.run_on_terminal()

    lines = re.findall(r"\x1b7  (busy: \d+/150 seeds, 1 failed, \d+\.\d s left)\x1b\[K\x1b8", told)
    assert lines
    # At the end there is none.
    assert told.rindex("\x1b7\x1b[K\x1b8") > told.rindex(" s left")


@pytest.mark.parametrize(
    "args", [("-v",), ("-q",), ("-p", "xdist", "-n2")], ids=["verbose", "quiet", "xdist"]
)
def test_no_other_terminal_has_that_line(plays: Plays, args: tuple[str, ...]) -> None:
    plays.write("busy", seeds=60, held=[0])

    assert "\x1b7" not in plays.run_on_terminal(*args)
