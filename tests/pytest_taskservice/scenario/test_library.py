"""The library under scenarios/: it holds, all that it says can fail, and it teaches.

Every claim is turned into lies, each at a place of its own, and exactly these places must be named.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from pytest_taskservice.commands import scenario as scenario_command
from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.scenario.acts import Start
from pytest_taskservice.scenario.load import load, load_text
from pytest_taskservice.scenario.model import (
    REASONS,
    WORKFLOW_REASONS,
    Expectation,
    Property,
    Scenario,
)
from taskservice.worker.app import create_app
from tests.pytest_taskservice.scenario.stories import play, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from pytest_taskservice.scenario.engine import Verdict

ROOT = Path(__file__).parents[3]
FILES = sorted(ROOT.glob("scenarios/**/*.scenario.yaml"))
MANY = 100
"""More than any story has of anything."""
NUMBERS = {"attempts", "deliveries", "starts", "struck", "runs", "stored_keys", "running", "alive"}


def stories() -> list[Any]:
    """Each document and row as the simulator plays it."""
    found = []
    for path in FILES:
        for scenario in load(path):
            played = scenario.for_backend("celery-sim")
            assert isinstance(played, Scenario), f"{scenario.mark}: every story is played on the simulator"
            found.append(pytest.param(played, id=f"{path.name.partition('.')[0]}-{scenario.title}"))
    return found


@cache
def app() -> Celery:
    """The app that a project without one of its own gets."""
    return create_app()


def played(scenario: Scenario, seed: int) -> Verdict:
    return play(scenario, CelerySimDriver(options=SimulatorOptions()), app(), seed=seed)


def first_seed(scenario: Scenario) -> int:
    return scenario.seeds[0] if scenario.seeds else 0


def lies_about(claim: Expectation, scenario: Scenario) -> Iterator[Expectation]:
    """The opposite of ``claim``, its time before anything happened, and each of its values another one."""
    match claim.property:
        case Property.ORDER:
            yield replace(claim, targets=claim.targets[::-1])
            return
        case Property.NEVER:
            yield replace(claim, property=Property.EVENTUALLY, instant=10.0)
            return
        case Property.EVENTUALLY:
            yield replace(claim, property=Property.NEVER, instant=None)
            # Nobody tells when that came about: it is counted where it is asked.
            if "stored_keys" not in claim.wanted:
                yield replace(claim, instant=0.0)
        case Property.AT | Property.ALWAYS:
            yield replace(claim, property=Property.NEVER, instant=None)
    for key, value in claim.wanted.items():
        # What is a yes or a no was the other one in some play, or at first.
        if claim.property is not Property.SOMETIMES or not isinstance(value, bool):
            yield replace(claim, wanted={**claim.wanted, key: another(key, value, claim, scenario)})


def another(key: str, value: Any, claim: Expectation, scenario: Scenario) -> Any:
    """A value that was never so."""
    if isinstance(value, bool):
        return not value
    if key in NUMBERS:
        return value + MANY
    if key == "events":
        return [*value, "rejected"]
    is_workflow = any(isinstance(step, Start) and step.name == claim.of for step in scenario.steps)
    if key == "reason":
        return next(reason for reason in (WORKFLOW_REASONS if is_workflow else REASONS) if reason != value)
    if key != "status":
        return "a lie"
    mine = [each for each in scenario.expect if each.of == claim.of and each.property is not Property.NEVER]
    said = {each.wanted.get("status") for each in mine}
    unsaid = ("SUCCESS", "FAILED", "INPUT") if is_workflow else ("REJECTED",)
    return next(status for status in unsaid if status not in said)


@pytest.mark.parametrize("scenario", stories())
def test_a_story_holds_and_each_lie_about_it_is_named(scenario: Scenario) -> None:
    lies = [
        replace(lie, mark=replace(claim.mark, column=claim.mark.column + MANY * number))
        for claim in scenario.expect
        for number, lie in enumerate(lies_about(claim, scenario), start=1)
    ]
    firm = {lie.mark for lie in lies if lie.property is not Property.SOMETIMES}

    verdict = played(replace(scenario, expect=(*scenario.expect, *lies)), seed=first_seed(scenario))

    assert firm | {mismatch.mark for mismatch in verdict.mismatches} == firm, told(verdict)
    assert {lie.mark for lie in lies} - firm == {
        lie.mark for lie in lies if str(lie.mark) in verdict.sometimes
    }
    assert {mismatch.mark for mismatch in verdict.mismatches} == firm
    assert not any(verdict.sometimes[str(lie.mark)] for lie in lies if lie.mark not in firm)


def test_what_is_so_sometimes_is_so_with_some_seed() -> None:
    for case in stories():
        (scenario,) = case.values
        left = {str(claim.mark) for claim in scenario.expect if claim.property is Property.SOMETIMES}
        for seed in scenario.seeds or range(5):
            if left:
                left -= {place for place, held in played(scenario, seed).sometimes.items() if held}
        assert left == set()


def test_a_line_that_is_wrong_is_the_one_that_is_named() -> None:
    """One line of a file as somebody would get it wrong, and nothing else is said."""
    path = ROOT / "scenarios" / "first" / "retries.scenario.yaml"
    text = path.read_text().replace('reached", attempts: 3}', 'reached", attempts: 2}')
    line = next(number for number, row in enumerate(text.splitlines(), start=1) if "attempts: 2}" in row[40:])
    stories = [one for one in load_text(text, "a.yaml") if one.name.startswith("retries used up")]

    (verdict,) = [played(one, seed=0) for one in stories]

    assert [str(mismatch.mark) for mismatch in verdict.mismatches] == [f"a.yaml:{line}:7"]


def test_there_are_stories_of_all_that_goes_wrong() -> None:
    documents = {scenario.mark for path in FILES for scenario in load(path)}
    tags = {tag for path in FILES for scenario in load(path) for tag in scenario.tags}

    assert len(documents) >= 30
    assert tags >= {
        "timeout", "busy", "expired", "expires", "retries", "poison", "duplicate", "crash", "hazard",
        "outage", "beat", "canvas", "priority", "starvation", "clients", "race", "restart", "revoke",
        "nemesis",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])
def test_a_file_begins_with_what_it_teaches(path: Path) -> None:
    head = path.read_text().partition("\nschema: 1\n")[0]

    assert re.fullmatch(r"(#( .+)?\n)+", head)
    assert len(head.split()) >= 5


def test_the_page_names_every_file() -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text()

    assert [name for path in FILES if (name := str(path.relative_to(ROOT))) not in page] == []


def test_the_story_of_the_readme_holds() -> None:
    (scenario,) = load_text(example_in(ROOT / "README.md"), "README.md")

    assert [told(played(scenario, seed)) for seed in range(3)] == [[], [], []]


def test_the_story_of_the_shops_readme_is_in_its_file() -> None:
    shop = ROOT / "examples" / "shop"
    lines = (shop / "scenarios" / "refunds.scenario.yaml").read_text().splitlines()

    assert [line for line in example_in(shop / "README.md").splitlines() if line not in lines] == []


def example_in(page: Path) -> str:
    (text,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    return str(text)


def test_the_check_passes() -> None:
    checked = CliRunner().invoke(scenario_command, ["check", str(ROOT / "scenarios")])

    assert (checked.exit_code, checked.stderr) == (0, "")
    assert checked.stdout.startswith(f"{len(FILES)} files right: ")
