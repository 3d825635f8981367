"""Seeds: exploring them, replaying one, what a failure tells, and tests that depend on something else."""

from __future__ import annotations

import re
import shlex
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

_RACE = """
    import time
    from shopx.celery import app

    stock = {"left": 10}

    @app.task
    def reserve():
        left = stock["left"]
        time.sleep(0.001)
        stock["left"] = left - 1
        return left - 1

    def check():
        stock["left"] = 10
        runs = [reserve.delay(), reserve.apply_async(countdown=0.004)]
        for run in runs:
            run.get()
        assert stock["left"] == 8
"""

_SHUFFLED = """
    import os
    import pytest
    from shopx.tasks import mail

    def test_by_chance(taskservice_sim):
        for subject in sorted("abcdefghijkl", key=lambda _: os.urandom(8)):
            mail.delay(subject)
        taskservice_sim.run_until_idle()

    @pytest.fixture
    def fresh():
        return []

    def test_by_seed(taskservice_sim, fresh, capsys):
        fresh.append(1)
        assert fresh == [1]
        for subject in "abcdefghijkl":
            mail.delay(subject)
        taskservice_sim.run_until_idle()

    def test_fails(taskservice_sim):
        print("was here")
        mail.delay("one").get()
        assert mail.delay("two").get() == "three"
"""

_DIGEST = """
    import os
    from pathlib import Path
    from celery import chord, group
    from shopx.tasks import add, flaky, total

    def test_it(taskservice_sim):
        assert chord([add.s(n, n) for n in range(5)], total.s())().get() == 20
        assert group(flaky.s(n) for n in range(3)).delay().get() == [0, 1, 2]
        with Path("digests").open("a") as file:
            file.write(f"{taskservice_sim.seed} {taskservice_sim.digest}\\n")
"""

_SCENARIO = """
    schema: 1
    name: mails
    tasks:
      send: {runs_for: 1s}
    steps:
      - {launch: send, as: run}
    expect:
      eventually:
        - {within: 5s, of: run, status: SUCCESS}
"""


def sections(result: pytest.RunResult, title: str) -> list[str]:
    """Return the texts of a section of failure reports."""
    section = rf"(?ms)^-+ taskservice {title} -+\n(.*?)(?=^[-_=]{{3,}})"
    found = re.findall(section, str(result.stdout))
    return [str(text) for text in found]


def test_a_seed_is_in_a_tests_id_only_where_one_was_chosen(downstream: Downstream) -> None:
    downstream.write(test_shopx="def test_it(taskservice_app): ...")

    plain = downstream.run("--collect-only", "-q", "--taskservice-backend=celery-sim,celery-eager")
    seeded = downstream.run(
        "--collect-only", "-q", "--taskservice-backend=celery-sim,celery-eager",
        "--taskservice-seed=7", "--taskservice-seeds=2",
    )  # fmt: skip

    plain.stdout.fnmatch_lines(["*test_it?celery-sim?", "*test_it?celery-eager?"], consecutive=True)
    seeded.stdout.fnmatch_lines(
        ["*test_it?celery-sim-seed=7?", "*test_it?celery-sim-seed=8?", "*test_it?celery-eager?"],
        consecutive=True,
    )


def test_a_race_shows_with_some_seeds_and_its_report_replays_it(downstream: Downstream) -> None:
    downstream.write(
        race=_RACE,
        test_shopx="""
        from race import check

        def test_stock(taskservice_sim):
            check()
        """,
    )

    explored = downstream.run("--taskservice-backend=celery-sim", "--taskservice-seeds=25", "-rfp")

    outcomes = explored.parseoutcomes()
    assert outcomes["failed"] + outcomes["passed"] == 25
    assert outcomes["failed"] > 0
    assert outcomes["passed"] > 0
    report = sections(explored, "simulation")[0]
    facts = re.match(r"seed (\d+) · start 2026-01-01T00:00:00\+00:00 · digest (\w{16}) ·", report)
    assert facts is not None
    seed, digest = facts.groups()
    assert re.search(
        r"^FAILED test_shopx.py::test_stock\[celery-sim-seed=(\d+)\]", str(explored.stdout), re.MULTILINE
    )
    # Not all of the chance that was found was needed, and the story shows the race.
    shrunk = re.search(r"the first (\d+) of (\d+) draws bring it", report)
    assert shrunk is not None
    assert int(shrunk[1]) < int(shrunk[2])
    assert re.search(r"virtual time +driver +worker1@sim\n", report)
    assert report.count("sleeps (0.001 s)") == 2

    command = report.rstrip().splitlines()[-1].partition("replay:  ")[2]
    assert command == (
        f"pytest 'test_shopx.py::test_stock' --taskservice-backend=celery-sim --taskservice-seed={seed}"
    )
    replayed = downstream.run(*shlex.split(command)[1:])

    replayed.assert_outcomes(failed=1)
    assert f"seed {seed} · start 2026-01-01T00:00:00+00:00 · digest {digest} ·" in str(replayed.stdout)


def test_a_seed_gives_one_digest_in_any_process(
    downstream: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    downstream.write(test_shopx=_DIGEST)
    module = downstream.root / "shopx" / "celery.py"
    # Its own result backend knows no chords.
    module.write_text(module.read_text("utf-8").replace("rpc://", "redis://nowhere.invalid/0"), "utf-8")
    arguments = ("--taskservice-backend=celery-sim", "--taskservice-seed=3", "--taskservice-seeds=2")

    for seed in ("0", "1", "20261124"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        downstream.run(*arguments).assert_outcomes(passed=2)
    downstream.run(*arguments, "-p", "xdist", "-n2").assert_outcomes(passed=2)

    told = (downstream.root / "digests").read_text("utf-8").split("\n")[:-1]
    assert len(told) == 8
    assert sorted(line.split()[0] for line in set(told)) == ["3", "4"]


def test_a_test_that_is_no_function_of_its_seed_is_told_so(downstream: Downstream) -> None:
    downstream.write(test_shopx=_SHUFFLED)

    result = downstream.run("--taskservice-backend=celery-sim", "--taskservice-check-determinism")

    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*taskservice: seed 0 told two stories, which part at event *: digests * and *",
            "*first run * second run*",
            "*>>> 0.*",
            "*usual causes: the order of a set, os.urandom or secrets*",
        ]
    )
    # The run before the one that is reported has said nothing.
    assert [line for line in result.outlines if line == "was here"] == ["was here"]
    assert downstream.code_shown(result) == []


def test_a_hunt_in_a_test_prints_its_finding(downstream: Downstream) -> None:
    downstream.write(
        race=_RACE,
        test_shopx="""
        from race import check, reserve, stock

        def test_hunt(taskservice_sim):
            assert taskservice_sim.find(check, seeds=200) is None

        def test_goes_on_after_it(taskservice_sim):
            assert taskservice_sim.find(lambda: reserve.delay().get(), seeds=3) is None
            assert taskservice_sim.seed == 0
            stock["left"] = 5
            assert reserve.delay().get() == 4

        def test_too_late(taskservice_sim):
            reserve.delay()
            taskservice_sim.find(check)
        """,
    )

    result = downstream.run("--taskservice-backend=celery-sim,celery-eager", "-rs")

    result.assert_outcomes(failed=2, passed=1, skipped=3)
    (finding,) = sections(result, "finding")
    assert re.match(r"seed \d+: AssertionError: assert stock", finding)
    assert "reserve#2 sleeps (0.001 s)" in finding
    result.stdout.fnmatch_lines(
        "*find() opens simulations of its own, and this test's has been used already*"
    )
    result.stdout.fnmatch_lines("SKIPPED*celery-eager cannot: a simulation (only celery-sim draws*")


def test_shrinking_runs_a_test_again_with_its_own_fixtures_and_its_neighbours_as_they_are(
    downstream: Downstream,
) -> None:
    downstream.write(
        race=_RACE,
        test_shopx="""
        import pytest
        from race import reserve, stock

        built = []

        @pytest.fixture(scope="module")
        def shared():
            built.append("shared")

        @pytest.fixture
        def own():
            built.append("own")

        def test_fails(taskservice_app, shared, own):
            print("was here")
            stock["left"] = 10
            assert reserve.delay().get() == "nothing"

        def test_counts(taskservice_app, shared):
            assert built.count("shared") == 1
            assert built.count("own") > 1
        """,
    )

    result = downstream.run("--taskservice-backend=celery-sim", "--taskservice-seed=0")

    result.assert_outcomes(failed=1, passed=1)
    assert [line for line in result.outlines if line == "was here"] == ["was here"]
    assert "no chance is needed" in sections(result, "simulation")[0]


def test_a_scenario_is_played_with_every_seed(downstream: Downstream) -> None:
    downstream.root.joinpath("mails.scenario.yaml").write_text(dedent(_SCENARIO), "utf-8")

    result = downstream.run("--taskservice-backend=celery-sim", "--taskservice-seeds=2", "-rA")

    result.stdout.fnmatch_lines(["PASSED *celery-sim-seed=0?", "PASSED *celery-sim-seed=1?"])
