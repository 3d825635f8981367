"""The reference of the format: its examples load, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_taskservice.scenario.claims import MATCHERS, RUN_EVENTS
from pytest_taskservice.scenario.config import CONFIG
from pytest_taskservice.scenario.faults import FAULT_OPTIONS, KINDS
from pytest_taskservice.scenario.load import SCENARIO, load_text
from pytest_taskservice.scenario.model import INVARIANTS, REASONS, STATUSES, WORKFLOW_STATUSES, Property
from pytest_taskservice.scenario.steps import STEPS
from pytest_taskservice.scenario.tasks import CANVAS, RETRY, TASK
from pytest_taskservice.scenario.workflows import WORKFLOW_STEPS
from tests.pytest_taskservice.scenario.test_schema import problems

PAGE = (Path(__file__).parents[3] / "docs" / "scenarios.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_is_right(text: str) -> None:
    assert load_text(text, "docs/scenarios.md")
    assert problems(text) == []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_every_word_of_the_format_is_on_the_page() -> None:
    words = {
        *SCENARIO,
        *CONFIG,
        *TASK,
        *CANVAS,
        *RETRY,
        *WORKFLOW_STEPS,
        *KINDS,
        *FAULT_OPTIONS,
        *INVARIANTS,
        *Property,
        *STATUSES,
        *WORKFLOW_STATUSES,
        *REASONS,
        *RUN_EVENTS,
        *(key for keys in STEPS.values() for key in keys),
        *(key for keys in MATCHERS.values() for key in keys),
    }
    written = set(re.findall(r"[A-Za-z_]+", PAGE))

    assert sorted(str(word) for word in words if str(word) not in written) == []
