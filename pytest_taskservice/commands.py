"""``taskservice scenario``: the schema of scenario files, a check of some, and a new one.

The command line of the runtime finds it by the entry point group ``taskservice.commands``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["scenario"]

SUFFIX = ".scenario.yaml"
STARTER = Path(__file__).parent / "scenario" / "starter.yaml"
_PATHS = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    """What came of one file."""

    path: Path
    documents: int = 0
    tests: int = 0
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        problems = [_problem(line) for line in self.problems]
        return {
            "path": str(self.path),
            "documents": self.documents,
            "tests": self.tests,
            "problems": problems,
        }


@click.group()
def scenario() -> None:
    """Write and check scenario files."""


@scenario.command("schema")
def print_schema() -> None:
    """Print the JSON Schema, for editors.

    The same is in the package: pytest_taskservice/scenario/scenario.schema.json.
    """
    from pytest_taskservice.scenario.schema import PUBLISHED

    click.echo(PUBLISHED.read_text("utf-8"), nl=False)


@scenario.command("check")
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True, type=_PATHS)
@click.option("--json", "as_json", is_flag=True, help="Plain JSON instead of lines.")
def check_files(paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Check scenario files without running them.

    Of a directory, all files *.scenario.yaml in it. Exit code 1 if one is wrong, 2 if there is none.
    """
    _need_yaml()
    files = list(dict.fromkeys(_files(paths)))
    if not files:
        click.echo(f"taskservice: no *{SUFFIX} in {', '.join(map(str, paths))}", err=True)
        sys.exit(2)

    checked = [_check(path) for path in files]
    if as_json:
        click.echo(json.dumps(_summary(checked), indent=2))
    else:
        _print(checked)
    sys.exit(1 if any(each.problems for each in checked) else 0)


@scenario.command("new")
@click.argument("path", metavar="[FILE]", default=f"first{SUFFIX}", type=_PATHS)
def new_file(path: Path) -> None:
    """Write a scenario to begin with; first.scenario.yaml without FILE."""
    if not path.name.endswith(SUFFIX):
        _give_up(f"{path} is not collected by pytest; a scenario file is called *{SUFFIX}")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER.read_text("utf-8"))
    except FileExistsError:
        _give_up(f"{path} exists; name another file, nothing is overwritten")
    except OSError as error:
        _give_up(f"cannot write {path}: {error.strerror}")
    click.echo(f"{path} written; play it: pytest {path} --taskservice-backend=all")


def _need_yaml() -> None:
    if find_spec("yaml") is None:
        _give_up("scenario files need PyYAML, which is not installed: pip install 'taskservice[pytest]'")


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not (path.exists() or path.is_symlink()):
            _give_up(f"no file or directory {path}")
        if path.is_dir():
            yield from sorted(each for each in path.rglob(f"*{SUFFIX}") if not each.is_dir())
        else:
            yield path


def _check(path: Path) -> _Checked:
    from pytest_taskservice.errors import ScenarioError
    from pytest_taskservice.scenario.load import load

    try:
        found = load(path)
    except ScenarioError as error:
        return _Checked(path=path, problems=tuple(str(error).splitlines()))
    return _Checked(path=path, documents=len({each.mark for each in found}), tests=len(found))


def _summary(checked: list[_Checked]) -> dict[str, Any]:
    return {
        "files": [each.to_json() for each in checked],
        "documents": sum(each.documents for each in checked),
        "tests": sum(each.tests for each in checked),
    }


def _problem(line: str) -> dict[str, Any]:
    place, _, message = line.partition(": ")
    path, row, column = place.rsplit(":", 2)
    return {"path": path, "line": int(row), "column": int(column), "message": message}


def _print(checked: list[_Checked]) -> None:
    for each in checked:
        for problem in each.problems:
            click.echo(problem)
    wrong = sum(1 for each in checked if each.problems)
    right = [each for each in checked if not each.problems]
    documents, tests = sum(each.documents for each in right), sum(each.tests for each in right)
    told = f"{_count(len(right), 'file')} right: {_count(documents, 'document')}, {_count(tests, 'test')}"
    click.echo(f"{_count(wrong, 'file')} wrong; {told}" if wrong else told)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _give_up(message: str) -> NoReturn:
    click.echo(f"taskservice: {message}", err=True)
    sys.exit(2)
