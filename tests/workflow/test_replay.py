"""What a journal says about the next thing that a function wants."""

from __future__ import annotations

import pytest

from taskservice.errors import MaxStepsError, WorkflowChangedError
from taskservice.workflow.model import EntryKind, JournalEntry
from taskservice.workflow.replay import Request, check_end, recall

LOADED = JournalEntry(index=0, kind=EntryKind.STEP, name="load", value=7)
ANSWERED = JournalEntry(index=1, kind=EntryKind.INPUT, name="sure?", value="yes")
OPEN = JournalEntry(index=1, kind=EntryKind.ASK, name="sure?")


def step(name: str) -> Request:
    return Request(kind=EntryKind.STEP, name=name)


def ask(name: str) -> Request:
    return Request(kind=EntryKind.ASK, name=name)


def test_what_was_done_comes_from_the_journal() -> None:
    journal = [LOADED, ANSWERED]

    assert recall("r", journal, 0, step("load"), max_steps=9) == LOADED
    assert recall("r", journal, 1, ask("sure?"), max_steps=9) == ANSWERED


def test_what_was_not_is_done_and_an_open_question_asked() -> None:
    assert recall("r", [], 0, step("load"), max_steps=9) is None
    assert recall("r", [LOADED, OPEN], 1, ask("sure?"), max_steps=9) is None


@pytest.mark.parametrize(
    ("request_", "found"), [(step("store"), "step 'store'"), (ask("load"), "question 'load'")]
)
def test_another_kind_or_name_is_a_changed_function(request_: Request, found: str) -> None:
    with pytest.raises(WorkflowChangedError) as caught:
        recall("r", [LOADED], 0, request_, max_steps=9)

    assert (caught.value.index, caught.value.journaled, caught.value.found) == (0, "step 'load'", found)


def test_a_function_that_ends_before_its_journal_has_changed() -> None:
    check_end("r", [LOADED], 1)

    with pytest.raises(WorkflowChangedError, match=r"was question 'sure\?' and is the end of the function"):
        check_end("r", [LOADED, ANSWERED], 1)


def test_a_journal_has_a_longest_length_and_may_be_replayed_at_it() -> None:
    assert recall("r", [LOADED], 0, step("load"), max_steps=1) == LOADED

    with pytest.raises(MaxStepsError):
        recall("r", [LOADED], 1, step("next"), max_steps=1)
