"""What is written down of a play."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.drivers.base import Outcome, WorkflowOutcome
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.report.files import record_path, replace_file
from pytest_taskservice.report.play import Play
from pytest_taskservice.report.record import of_play, read, save
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.engine import Verdict
from pytest_taskservice.scenario.model import Scenario

if TYPE_CHECKING:
    from pathlib import Path


def play(path: Path, *, result: Any = None, detail: dict[str, Any] | None = None) -> Play:
    outcomes: Any = {
        "payment": (Outcome(status="SUCCESS", result=result),),
        "flow": (WorkflowOutcome(status="FAILED", reason="busy"),),
    }
    event = Event(at=101.5, kind=EventKind.SENT, run="r1", task="charge", detail=detail or {})
    return Play(
        scenario=Scenario(mark=Mark(path="shop.scenario.yaml", line=3, column=1), name="a card"),
        verdict=Verdict(
            log=EventLog(iter([event])),
            start=100.0,
            runs={"payment": ("r1",), "flow": ("f1",), "late": ("c1",)},
            outcomes=outcomes,
            mismatches=(),
            sometimes={"shop.scenario.yaml:9:7": True},
        ),
        backend="celery-sim",
        world="celery-sim",
        replay="pytest x",
        record=str(path),
    )


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        ((1, 2.5, None), [1, 2.5, None]),
        ({1: {"a"}}, {"1": "{'a'}"}),
        (float("nan"), "nan"),
        (10**30, 10**30),
        ("\ud800", "\\ud800"),
        (b"\xff", "b'\\xff'"),
    ],
)
def test_any_result_is_recorded(tmp_path: Path, result: Any, kept: Any) -> None:
    path = tmp_path / "run.json"

    save(of_play(play(path, result=result)), nodeid="x", outcome="passed", message="")

    assert json.loads(path.read_text("utf-8"))["outcomes"]["payment"][0]["result"] == kept


def test_every_kind_of_run_has_its_outcome(tmp_path: Path) -> None:
    path = tmp_path / "run.json"

    save(of_play(play(path, detail={"queue": "a"})), nodeid="x", outcome="passed", message="")

    record = read(path)
    assert record.outcomes["flow"][0].reason == "busy"
    assert list(record.runs) == ["payment", "flow", "late"]
    assert (record.events[0].at, record.events[0].name) == (1.5, "payment")
    assert record.events[0].detail == {"queue": "a"}
    assert record.sometimes == {"shop.scenario.yaml:9:7": True}


def test_names_are_safe_and_never_the_same(tmp_path: Path) -> None:
    nodeid = "../shop/ä ü.scenario.yaml::a/b\\c[" + "x" * 500 + "]"

    paths = {record_path(tmp_path, nodeid) for _ in range(50)}

    assert len(paths) == 50
    for path in paths:
        assert path.parent == tmp_path
        assert path.name.isascii()
        assert len(path.name) < 200


def test_a_file_is_replaced_in_one_step_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"

    replace_file(path, "one")
    replace_file(path, "two")

    assert path.read_text("utf-8") == "two"
    assert list(path.parent.iterdir()) == [path]
