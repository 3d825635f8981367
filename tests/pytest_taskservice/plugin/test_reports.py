"""What a failing scenario leaves: its report, JUnit XML, records, pages, and a shrunk story to run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import jsonschema_rs
import pytest

from pytest_taskservice.report.record import read, schema

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

SCHEMA = Path(__file__).parents[3] / "pytest_taskservice" / "report" / "run.schema.json"

_STORY = """\
schema: 1
name: a declined card
backends: [celery-sim, anyio]
tasks:
  charge: {runs_for: 2s, fails_with: "ValueError: declined", fails_times: 1, retry: {max_attempts: 2}}
  mail: {runs_for: 1s}
steps:
  - {at: 0s, launch: mail, count: 2, as: mails}
  - {at: 1s, launch: charge, as: payment}
expect:
  never:
    - {of: payment, status: RETRY}
  eventually:
    - {within: 60s, of: mails, status: SUCCESS}
overrides:
  anyio: {expect: {never: [{of: payment, status: REVOKED}]}}
"""
_PARTING = """\
schema: 1
name: a card is charged
backends: [celery-sim, celery-eager]
tasks:
  charge: {fails_times: 1, retry: {max_attempts: 2}}
  greet: {}
steps:
  - {launch: charge, as: payment}
expect:
  never:
    - {of: payment, status: RETRY}
overrides:
  celery-eager:
    steps:
      - {launch: greet, as: payment}
"""
_SIMULATED = "--taskservice-backend=celery-sim"


@pytest.fixture
def project(downstream: Downstream) -> Downstream:
    downstream.root.joinpath("pytest.ini").write_text(
        "[pytest]\naddopts = -p taskservice\npythonpath = .\ntaskservice_app = shopx.celery:app\n", "utf-8"
    )
    downstream.root.joinpath("shop.scenario.yaml").write_text(_STORY, "utf-8")
    return downstream


def records(directory: Path) -> dict[str, Any]:
    """Return all records by their test's id."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*.json"))]
    return {record["id"]: record for record in found}


def test_a_failure_says_where_what_and_how_to_see_it_again(project: Downstream) -> None:
    result = project.run(_SIMULATED)

    result.stdout.fnmatch_lines(
        [
            "a declined card: 1 mismatch",
            "celery-sim · seed 0 · start 2026-01-01T00:00:00+00:00 · concurrency 2",
            "digest ????????????????",
            "",
            "  shop.scenario.yaml:12:7",
            "    12 |     - {of: payment, status: RETRY}",
            "       |       ^",
            "    expected  payment: never status RETRY",
            "    got       payment: status RETRY, at 3.0* s",
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines(["*payment retried"])
    result.stdout.fnmatch_lines(
        ["  replay:  pytest 'shop.scenario.yaml::a declined card' --taskservice-*-seed=0"]
    )
    assert project.code_shown(result) == []
    told = str(result.stdout).partition("FAILURES")[2].partition("short test summary")[0].splitlines()
    # What is to be copied stands on one line, and so does what a summary shows.
    wide = [line for line in told if len(line) > 80 and not re.search("replay:|file:|; got ", line)]
    assert wide == []


def test_the_shrunk_story_is_a_file_that_fails_likewise(project: Downstream) -> None:
    result = project.run(_SIMULATED)

    result.stdout.fnmatch_lines(
        [
            "*- taskservice shrunk story -*",
            "shrunk in * plays to 1 of 2 steps",
            "",
            "  schema: 1",
            "  name: a declined card",
            "  backends: ?celery-sim?",
            "  tasks:",
            '    charge: {fails_with: "ValueError: declined", retry: {max_attempts: 2}}',
            "  steps:",
            "    - {launch: charge, as: payment}",
            "  expect:",
            "    never:",
            "      - {of: payment, status: RETRY}",
        ],
        consecutive=True,
    )
    command = re.findall(r"replay:  pytest (.*\.scenario\.yaml'? .*)", str(result.stdout))[-1]
    arguments = shlex.split(command)
    assert arguments[0].startswith(".pytest_cache")
    text = project.root.joinpath(arguments[0]).read_text("utf-8")
    assert text.startswith("# Shrunk from shop.scenario.yaml:1:1, 'a declined card', seed 0:\n")
    assert f"# replay:  pytest {command}\n" in text

    again = project.run(*arguments)

    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["    expected  payment: never status RETRY"])


def test_a_document_is_shrunk_once(project: Downstream) -> None:
    result = project.run(_SIMULATED, "--taskservice-seeds=3")

    result.assert_outcomes(failed=3)
    assert str(result.stdout).count("- taskservice shrunk story -") == 1
    assert str(result.stdout).count("failed with 3 of 3 seeds, first 0") == 3


def test_worlds_are_compared(project: Downstream) -> None:
    project.root.joinpath("shop.scenario.yaml").write_text(_PARTING, "utf-8")

    result = project.run("--taskservice-backend=celery-sim,celery-eager")

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*- taskservice worlds -*",
            "celery-sim     failed",
            "celery-eager   passed",
            "here and celery-eager, which passed, part at: payment retried at * s here, succeeded at *",
        ],
        consecutive=True,
    )


def test_junit_xml_has_what_matters(project: Downstream) -> None:
    project.run("--taskservice-backend=celery-sim,anyio", "--taskservice-seed=4", "--junitxml=junit.xml")

    cases = ET.parse(project.root / "junit.xml").getroot().iter("testcase")
    found = {case.get("name"): case for case in cases}
    failed = found["a declined card[celery-sim-seed=4]"]
    properties = {one.get("name"): one.get("value") for one in failed.iter("property")}
    assert properties.pop("taskservice_digest")
    assert properties == {
        "taskservice_scenario": "a declined card",
        "taskservice_place": "shop.scenario.yaml:1",
        "taskservice_world": "celery-sim-seed=4",
        "taskservice_seed": "4",
        "taskservice_verdict": "failed",
        "taskservice_replay": (
            "pytest 'shop.scenario.yaml::a declined card' --taskservice-backend=celery-sim "
            "--taskservice-seed=4"
        ),
    }
    failure = failed.find("failure")
    assert failure is not None
    assert re.fullmatch("payment: never status RETRY; got status RETRY, at .* s", failure.get("message", ""))
    passed = found["a declined card[anyio-trio]"]
    assert {"taskservice_verdict": "passed"}.items() <= {
        one.get("name"): one.get("value") for one in passed.iter("property")
    }.items()


@pytest.mark.parametrize("processes", [(), ("-p", "xdist", "-n2")], ids=["alone", "xdist"])
def test_every_run_is_recorded_by_the_schema(project: Downstream, processes: tuple[str, ...]) -> None:
    project.write(
        test_shopx="""
        from shopx.tasks import add

        def test_sum(taskservice_app):
            assert add.delay(1, 2).get() == 3

        def test_alone():
            assert True
        """
    )

    result = project.run(_SIMULATED, "--taskservice-seeds=2", "--taskservice-report=out", *processes)

    out = project.root / "out"
    found = records(out)
    check = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text("utf-8")))
    for record in found.values():
        check.validate(record)
    assert sorted(found) == [
        "shop.scenario.yaml::a declined card[celery-sim-seed=0]",
        "shop.scenario.yaml::a declined card[celery-sim-seed=1]",
        "test_shopx.py::test_sum[celery-sim-seed=0]",
        "test_shopx.py::test_sum[celery-sim-seed=1]",
    ]
    story = found["shop.scenario.yaml::a declined card[celery-sim-seed=1]"]
    assert (story["outcome"], story["seed"], list(story["runs"])) == ("failed", 1, ["mails", "payment"])
    assert story["mismatches"][0]["line"] == 12
    assert story["outcomes"]["payment"][0] | {"run": ""} == {
        "run": "", "status": "SUCCESS", "result": None, "error": "", "message": "",
        "reason": "", "attempts": 2,
    }  # fmt: skip
    assert [event["kind"] for event in story["events"] if event["name"] == "payment"][-1] == "succeeded"
    test = found["test_shopx.py::test_sum[celery-sim-seed=1]"]
    assert (test["kind"], test["outcome"], test["scenario"]) == ("test", "passed", None)
    assert "succeeded" in [event["kind"] for event in test["events"]]
    result.stdout.fnmatch_lines(["taskservice: reports: *out/index.html"])
    pages = {path.stem for path in out.glob("*.html")}
    assert pages == {path.stem for path in out.glob("*.json")} | {"index"}
    assert "4 runs, 2 failed" in out.joinpath("index.html").read_text("utf-8")


def test_what_is_recorded_can_be_played_again(project: Downstream) -> None:
    project.run(_SIMULATED, "--taskservice-report=out")
    (record,) = records(project.root / "out").values()
    project.root.joinpath("again.scenario.yaml").write_text(record["scenario"]["text"], "utf-8")

    project.run(_SIMULATED, "--taskservice-report=second", "again.scenario.yaml")

    (second,) = records(project.root / "second").values()
    assert second["digest"] == record["digest"]


def test_a_second_session_adds_its_records(project: Downstream) -> None:
    for _ in range(2):
        project.run(_SIMULATED, "--taskservice-report=out")

    found = sorted(project.root.joinpath("out").glob("*.json"))
    assert len(found) == 2
    assert [read(path).outcome for path in found] == ["failed", "failed"]
    # What was shrunk there is not collected by the next session.
    assert "2 runs, 2 failed" in project.root.joinpath("out", "index.html").read_text("utf-8")


def test_the_directory_may_stand_in_the_ini_file(project: Downstream) -> None:
    ini = project.root / "pytest.ini"
    ini.write_text(ini.read_text("utf-8") + "taskservice_report = kept/here\n", "utf-8")

    project.run(_SIMULATED)

    assert len(list(project.root.joinpath("kept", "here").glob("*.json"))) == 1


def test_a_directory_that_cannot_be_made_is_a_usage_error(project: Downstream) -> None:
    project.root.joinpath("taken").write_text("", "utf-8")

    result = project.run(_SIMULATED, "--taskservice-report=taken")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: taskservice: --taskservice-report=*taken: cannot make this directory: *"]
    )


@pytest.mark.parametrize("world", ["celery-sim", "celery-eager", "anyio"])
def test_the_command_may_be_given_to_a_shell_as_it_is(world: str, project: Downstream) -> None:
    told = _PARTING.replace("a card is charged", 'it\'s "a `card`" $HOME').replace("celery-eager:", "anyio:")
    told = told.replace("[celery-sim, celery-eager]", "[celery-sim, celery-eager, anyio]")
    project.root.joinpath("shop.scenario.yaml").write_text(
        told.replace("status: RETRY", "attempts: 1"), "utf-8"
    )

    given = f"--taskservice-backend={world}", "--taskservice-app=shopx.celery:app"
    replays = re.findall(r"^  replay:  pytest (.*)$", project.run(*given).stdout.str(), re.MULTILINE)

    assert replays
    for replay in replays:
        assert "--taskservice-app=shopx.celery:app" in replay
        project.run(*shlex.split(replay)).assert_outcomes(failed=1)


_FULL_DISK = """
from pytest_taskservice import shrunk
from pytest_taskservice.report import html, record

def full(path, text):
    raise OSError(28, "No space left on device")

html.replace_file = record.replace_file = shrunk.replace_file = full
"""


@pytest.mark.parametrize("flags", [(), ("-pxdist", "-n2")])
@pytest.mark.parametrize("failed", [0, 1])
def test_a_full_disk_is_told_and_fails_what_would_have_passed(
    flags: tuple[str, ...], failed: int, project: Downstream
) -> None:
    project.write(conftest=_FULL_DISK)
    told = _STORY if failed else _STORY.replace("status: RETRY", "status: FAILURE")
    project.root.joinpath("shop.scenario.yaml").write_text(told, "utf-8")

    result = project.run(_SIMULATED, "--taskservice-report=reports", *flags)

    result.assert_outcomes(passed=1 - failed, failed=failed)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    full = "[[]Errno 28[]] No space left on device"
    result.stdout.fnmatch_lines([f"taskservice: --taskservice-report: not all could be written: {full}"])
    if failed:
        result.stdout.fnmatch_lines([f"  file:    cannot be written: {full}"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_published_schema_is_what_the_models_say() -> None:
    assert json.loads(SCHEMA.read_text("utf-8")) == schema()
