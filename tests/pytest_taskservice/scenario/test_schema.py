"""The published JSON Schema: what editors complete by is what the readers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.fields import plain
from pytest_taskservice.scenario.load import load_text
from pytest_taskservice.scenario.nodes import documents
from pytest_taskservice.scenario.schema import PUBLISHED, schema_text
from tests.pytest_taskservice.scenario import everything, paid, test_format_claims, test_format_mistakes

ROOT = Path(__file__).parents[3]
FILES = [
    *sorted((ROOT / "scenarios").rglob("*.scenario.yaml")),
    *sorted((ROOT / "examples").rglob("*.scenario.yaml")),
    *sorted((Path(__file__).parent / "documents").glob("*.yaml")),
    ROOT / "pytest_taskservice" / "scenario" / "starter.yaml",
]
VALIDATOR = jsonschema_rs.Draft7Validator(json.loads(PUBLISHED.read_text()))


def problems(text: str) -> list[str]:
    return [
        error.message for root in documents(text, "f.yaml") for error in VALIDATOR.iter_errors(plain(root))
    ]


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PUBLISHED.read_text())
    return found


def test_the_published_schema_is_what_the_tables_make() -> None:
    assert PUBLISHED.read_text() == schema_text()


def test_it_is_a_schema() -> None:
    jsonschema_rs.meta.validate(schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_scenario_of_this_repository_is_valid(path: Path) -> None:
    assert problems(path.read_text()) == []


def test_a_scenario_with_every_part_is_valid() -> None:
    assert problems(everything.GOOD) == []


# What the schema alone must see; the rest takes the whole story, which only the readers know.
SEEN = [
    "a canvas of two kinds",
    "a chord without a body",
    "a chain with a body",
    "a fault without its measure",
    "a follow without a name",
    "a kind without its measure",
    "a child lost before it works",
    "a nemesis without an end",
    "a negative seed",
    "a race of one",
    "a race of no commands",
    "a seed twice",
    "a target that cannot be",
    "a workflow step of two kinds",
    "an emit of no mapping",
    "an entry with both",
    "an entry with neither",
    "an entry without a task",
    "an instant within a race",
    "an invariant with a wrong word",
    "an option that means nothing",
    "an order of one",
    "an order without an event",
    "an unknown broker",
    "an unknown fault",
    "an unknown invariant",
    "no seed",
    "no workers",
    "nothing sometimes",
    "too many workers",
]


@pytest.mark.parametrize("case", SEEN)
def test_what_the_readers_refuse_by_its_shape_the_schema_refuses_too(case: str) -> None:
    old, new, _ = {**test_format_mistakes.WRONG, **test_format_claims.WRONG}[case]

    assert problems(everything.GOOD.replace(old, new, 1))


def test_a_key_that_no_reader_knows_is_none_of_the_schema() -> None:
    for text in (
        f"{paid.GOOD}on: push\n",
        paid.changed("returns", "return"),
        paid.changed("launch:", "lunch:"),
        paid.changed("within", "in"),
        paid.changed("eventually", "finally"),
    ):
        assert problems(text), text


@pytest.mark.parametrize("value", ["5", "1:00:10", "-5s", "true", "[]"])
def test_a_time_without_a_unit_is_none(value: str) -> None:
    assert problems(paid.changed("5s", value))


def test_a_parameter_may_stand_for_anything() -> None:
    text = paid.changed("{returns: paid}", '{runs_for: "${time}", fails_times: "${n}", "${key}": 1}')

    assert problems(text) == []


def test_every_place_where_completion_begins_is_explained() -> None:
    unexplained = [
        f"{where}.{key}"
        for where, part in {"scenario": schema(), **schema()["definitions"]}.items()
        for key, value in part.get("properties", {}).items()
        if value is not False and "$ref" not in value and not value.get("description")
    ]

    assert unexplained == []


def test_the_readers_take_what_is_valid_at_every_enumeration() -> None:
    """Every word that the schema offers for a fault's kind is one to the readers."""
    kinds = schema()["definitions"]["fault_inject"]["anyOf"][0]["enum"]
    text = paid.GOOD.replace(
        "  - {launch: charge, as: run}", "  - {launch: charge, as: run}\n  - {inject: KIND}"
    )

    for kind in kinds:
        try:
            load_text(text.replace("KIND", kind), "f.yaml")
        except ScenarioError as error:
            assert "is missing in" in str(error)  # noqa: PT017 - some kinds need an option
