"""A story's workflows by name: where they are found, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_taskservice.drivers.base import Stage
from pytest_taskservice.drivers.workflow_story import StoryWorkflows, find_workflow
from pytest_taskservice.errors import HarnessError, UnknownNameError
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.model import Config, Workflow
from taskservice.workflow.definitions import default_workflows
from tests.contract import story_flows


def test_a_workflow_is_found_by_its_path_and_by_its_name() -> None:
    assert find_workflow("tests.contract.story_flows.refund") is story_flows.refund
    assert find_workflow("contract.refund") is story_flows.refund


@pytest.mark.parametrize(
    "place", ["tests.contract.story_flows.refnd", "tests.contract.nowhere.refund", "refund", ".refund", ""]
)
def test_what_is_no_workflow_is_told_with_the_known_ones(place: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown workflow"):
        find_workflow(place)


@pytest.mark.parametrize("line", ["import no_such_module_at_all", "raise RuntimeError('boom')", "def ("])
def test_a_module_that_cannot_be_imported_says_why(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_flows.py").write_text(line + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(HarnessError, match=r"cannot import 'broken_flows' for the workflow .*: \w+: "):
        find_workflow("broken_flows.refund")


def test_the_storys_deadlines_stand_over_a_workflows_own_and_the_rest_stays() -> None:
    mark = Mark(path="story.scenario.yaml", line=1, column=1)
    called = Workflow(name="mine", mark=mark, call="contract.patient")

    story = StoryWorkflows(Stage(config=Config(busy_after=3.0, data_ttl=60.0), workflows={"mine": called}))

    definition, _ = story.called("mine", ())
    assert definition.deadlines == {"busy": 3.0, "data": 60.0, "input": 5.0}
    assert default_workflows.get("contract.patient").deadlines == {"input": 5.0}
