"""Scenario files as load."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskservice.errors import ConfigurationError
from taskservice.load.calls import Story
from taskservice.load.stories import read_story

FILE = """
schema: 1
name: a busy day
config: {task_time_limit: 30s}
tasks:
  pack: {runs_for: 10ms, queue: boxes}
  sum: {call: shop.reports.add_up}
steps:
  - {at: 0s, launch: pack, count: 3, as: parcels}
  - {wait: 200ms}
  - {launch: sum, args: [[1, 2]], as: total}
  - {wait: parcels, within: 5s}
  - {revoke: total}
expect:
  eventually:
    - {within: 5s, of: parcels, status: SUCCESS}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file."""
    made = tmp_path / "day.scenario.yaml"
    made.write_text(FILE)
    return made


def test_launches_and_waits_are_load(path: Path) -> None:
    moves = read_story(path).moves

    calls = [move.call for move in moves if move.call is not None]
    assert [(call.name, call.args, dict(call.options)) for call in calls[1:]] == [
        ("shop.reports:add_up", ([1, 2],), {"time_limit": 30.0})
    ]
    assert (moves[0].count, moves[0].name, moves[0].at) == (3, "parcels", 0.0)
    assert dict(calls[0].options) == {"queue": "boxes", "time_limit": 30.0}
    assert (moves[1].pause, moves[3].awaits) == (0.2, ("parcels",))


def test_what_is_no_load_is_said(path: Path) -> None:
    story = read_story(path)

    assert any("revoke" in word for word in story.ignored)
    assert any("1 expectation" in word for word in story.ignored)
    assert "shop.reports" in story.imports


def test_a_story_crosses_processes(path: Path) -> None:
    story = read_story(path)

    assert Story.from_json(story.to_json()) == story


def test_a_mistake_is_told_by_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "bad.scenario.yaml"
    path.write_text("schema: 1\nname: x\nsteps: []\nexpect: {}\ntaks: {}\n")

    with pytest.raises(ConfigurationError, match=r"bad\.scenario\.yaml:5:1: "):
        read_story(path)


def test_of_several_scenarios_one_is_chosen(path: Path) -> None:
    path.write_text(f"{FILE}---{FILE.replace('a busy day', 'a quiet day')}")

    assert read_story(path, "a quiet day").name == "a quiet day"
    with pytest.raises(
        ConfigurationError, match="has 2 scenarios; choose one with --case: a busy day, a quiet"
    ):
        read_story(path)
    with pytest.raises(ConfigurationError, match="has no scenario 'a night'"):
        read_story(path, "a night")
