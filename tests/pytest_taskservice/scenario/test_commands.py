"""``taskservice scenario``, from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from pytest_taskservice.scenario.load import load
from pytest_taskservice.scenario.schema import PUBLISHED
from taskservice.cli import cli, plugged

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[3]


def run(*argv: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["scenario", *map(str, argv)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of one's own to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_names_the_command_without_loading_what_it_needs() -> None:
    code = "import sys; from taskservice.cli import cli; cli(['--help'], standalone_mode=False); "
    code += "print({'yaml', 'celery', 'pytest', 'pydantic'} & set(sys.modules))"

    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert "scenario  Write and check scenario files." in out
    assert out.endswith("set()\n")


def test_schema_prints_the_published_one() -> None:
    assert run("schema") == (0, PUBLISHED.read_text(), "")


def test_a_new_scenario_passes_the_check() -> None:
    code, out, _ = run("new")

    assert (code, out.split(" written; ")[0]) == (0, "first.scenario.yaml")
    assert run("check", "first.scenario.yaml") == (0, "1 file right: 1 document, 1 test\n", "")


def test_a_new_scenario_passes_in_every_world(pytester: pytest.Pytester) -> None:
    assert run("new", pytester.path / "shop" / "first.scenario.yaml")[0] == 0

    result = pytester.runpytest_subprocess(
        "-q", "shop", "--taskservice-backend=all", "-p", "no:cacheprovider"
    )

    result.assert_outcomes(passed=5)


def test_nothing_is_overwritten(directory: Path) -> None:
    (directory / "mine.scenario.yaml").write_text("mine")

    code, out, err = run("new", "mine.scenario.yaml")

    assert (code, out) == (2, "")
    assert err == "taskservice: mine.scenario.yaml exists; name another file, nothing is overwritten\n"
    assert (directory / "mine.scenario.yaml").read_text() == "mine"


def test_a_name_that_pytest_does_not_collect_is_refused(directory: Path) -> None:
    code, _, err = run("new", "mine.yaml")

    assert (code, list(directory.iterdir())) == (2, [])
    assert err == (
        "taskservice: mine.yaml is not collected by pytest; a scenario file is called *.scenario.yaml\n"
    )


def test_check_tells_places_and_goes_on(directory: Path) -> None:
    run("new", "good.scenario.yaml")
    (directory / "bad.scenario.yaml").write_text("schema: 1\nname: x\nstep: []\n---\nname: [\n")

    code, out, err = run("check", ".")

    assert (code, err) == (1, "")
    assert [line.split(": ")[0] for line in out.splitlines()[:2]] == [
        "bad.scenario.yaml:3:1",
        "bad.scenario.yaml:6:1",
    ]
    assert out.splitlines()[2:] == ["1 file wrong; 1 file right: 1 document, 1 test"]


def test_check_counts_documents_and_tests() -> None:
    code, out, _ = run(
        "check", ROOT / "tests" / "pytest_taskservice" / "scenario" / "documents" / "begin.yaml"
    )

    assert (code, out) == (0, "1 file right: 3 documents, 5 tests\n")


def test_check_has_json(directory: Path) -> None:
    (directory / "bad.scenario.yaml").write_text("7\n")

    code, out, _ = run("check", "--json", "bad.scenario.yaml")

    message = "found 7; a scenario is a mapping of keys to values"
    problem = {"path": "bad.scenario.yaml", "line": 1, "column": 1, "message": message}
    assert code == 1
    assert json.loads(out) == {
        "files": [{"path": "bad.scenario.yaml", "documents": 0, "tests": 0, "problems": [problem]}],
        "documents": 0,
        "tests": 0,
    }


def test_the_name_of_a_file_does_not_act_on_the_terminal(directory: Path) -> None:
    (directory / "red\x1b[31m\n.scenario.yaml").write_text("7\n")

    _, out, _ = run("check", ".")
    _, told, _ = run("check", "--json", ".")

    assert out.startswith("red\\x1b[31m\\n.scenario.yaml:1:1: found 7; ")
    assert len(json.loads(told)["files"][0]["problems"]) == 1


def test_nothing_to_check_is_exit_code_2() -> None:
    assert run("check", ".") == (2, "", "taskservice: no *.scenario.yaml in .\n")
    assert run("check", "nowhere") == (2, "", "taskservice: no file or directory nowhere\n")


def test_a_file_that_cannot_be_read_is_one_line(directory: Path) -> None:
    (directory / "x.scenario.yaml").mkdir()

    code, out, err = run("check", directory / "x.scenario.yaml", ROOT / "README.md" / "x")

    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize("folder", [False, True], ids=["named", "found"])
def test_what_is_no_file_is_not_waited_for(directory: Path, folder: bool) -> None:
    os.mkfifo("pipe.scenario.yaml")
    Path("zero.scenario.yaml").symlink_to("/dev/zero")
    Path("nowhere.scenario.yaml").symlink_to("nothing")
    Path("folder.scenario.yaml").mkdir()
    names = ("nowhere.scenario.yaml", "pipe.scenario.yaml", "zero.scenario.yaml")

    code, out, _ = run("check", *([str(directory)] if folder else names))

    assert code == 1
    assert [line.rpartition("/")[2] for line in out.splitlines()] == [
        "nowhere.scenario.yaml:1:1: cannot be read: No such file or directory",
        "pipe.scenario.yaml:1:1: found a directory, a pipe or a device; a scenario file is a file",
        "zero.scenario.yaml:1:1: found a directory, a pipe or a device; a scenario file is a file",
        "3 files wrong; 0 files right: 0 documents, 0 tests",
    ]


def test_a_huge_file_is_not_read(directory: Path) -> None:
    with Path("huge.scenario.yaml").open("wb") as file:
        file.truncate(50_000_000_000)

    code, out, _ = run("check", "huge.scenario.yaml")

    assert code == 1
    assert out.startswith("huge.scenario.yaml:1:1: found 50000000000 bytes; a scenario file has at most")


def test_without_yaml_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    run("new")
    monkeypatch.setattr("pytest_taskservice.commands.find_spec", lambda name: None)

    code, out, err = run("check", ".")

    assert (code, out) == (2, "")
    assert err == (
        "taskservice: scenario files need PyYAML, which is not installed: pip install 'taskservice[pytest]'\n"
    )


def test_a_broken_command_of_another_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found(list[EntryPoint]):
        names: Sequence[str] = ("lost",)

    broken = EntryPoint(name="lost", value="nowhere.at_all:lost", group="taskservice.commands")
    monkeypatch.setattr(plugged, "entry_points", lambda **_: Found([broken]))

    result = CliRunner().invoke(cli, ["lost"])

    assert result.exit_code == 2
    assert result.stderr == (
        "taskservice: the command 'lost' cannot be loaded from nowhere.at_all:lost: "
        "No module named 'nowhere'\n"
    )


def test_the_starter_is_a_scenario() -> None:
    (scenario,) = load(ROOT / "pytest_taskservice" / "scenario" / "starter.yaml")

    assert scenario.backends == ("celery", "celery-sim", "celery-eager", "anyio")
