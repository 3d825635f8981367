from __future__ import annotations

import pytest

from pytest_taskservice.scenario.model import STATUSES, WORKFLOW_STATUSES
from pytest_taskservice.scenario.words import (
    format_duration,
    nearest,
    parse_duration,
    unknown,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("500ms", 0.5),
        ("300ms", 0.3),
        ("1s", 1.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1h30m", 5400.0),
        ("1m5s250ms", 65.25),
        ("3650d", 315360000.0),
    ],
)
def test_a_duration_is_a_sum_of_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1:00:10", "-1s", "1 s", "s", "1m1h", "1s1s", "1e3s"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["3651d", "99999999999999999999s", "87601h"])
def test_a_duration_is_bounded(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 10 years"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "1ms", "500ms", "1.5s", "1h30m", "1d", "59m59.25s"])
def test_a_duration_is_shown_as_it_was_written(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize(
    ("found", "known"),
    [("FAILED", "FAILURE"), ("success", "SUCCESS"), ("CANCELLED", "REVOKED"), ("quite", None)],
)
def test_the_nearest_word_is_found_by_spelling_or_meaning(found: str, known: str | None) -> None:
    assert nearest(found, ["SUCCESS", "FAILURE", "REVOKED"]) == known


@pytest.mark.parametrize(
    ("found", "task", "workflow"),
    [
        ("RUNNING", "STARTED", "RUNNING"),
        ("STARTED", "STARTED", "RUNNING"),
        ("QUEUED", "PENDING", "WAITING"),
        ("CANCELLED", "REVOKED", "FAILED"),
        ("RAISED", "FAILURE", "FAILED"),
        ("DONE", "SUCCESS", "SUCCESS"),
    ],
)
def test_what_a_status_was_meant_to_be_depends_on_whose_it_is(found: str, task: str, workflow: str) -> None:
    assert nearest(found, STATUSES) == task
    assert nearest(found, WORKFLOW_STATUSES) == workflow


def test_many_words_are_listed_in_part() -> None:
    sentence = unknown("task", "x", [f"t{n}" for n in range(100)])

    assert sentence.endswith("t58, t59 and 40 more")


def test_a_long_word_is_shown_in_part() -> None:
    assert unknown("key", "x" * 99, ["a"]) == f"unknown key '{'x' * 60}...'; allowed: a"
