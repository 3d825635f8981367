"""Where two plays of one story part."""

from __future__ import annotations

import pytest

from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.report.parting import Course, course_of, parting
from pytest_taskservice.scenario.engine import Verdict

HERE: Course = {"run": [(0.0, "sent"), (1.0, "started"), (3.0, "failed")]}


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (HERE, None),
        ({"run": [(0.5, "sent"), (7.0, "started"), (9.0, "failed")]}, None),
        (
            {"run": [(0.0, "sent"), (1.0, "started"), (2.0, "succeeded")]},
            "run failed at 3.000 s here, succeeded at 2.000 s there",
        ),
        ({"run": [(0.0, "sent"), (1.0, "started")]}, "run failed at 3.000 s here, nothing more there"),
        ({**HERE, "late": [(2.5, "sent")]}, "late nothing more here, sent at 2.500 s there"),
    ],
    ids=["alike", "at other instants", "another end", "no end", "another run"],
)
def test_worlds_part_by_what_happened_whenever_it_did(there: Course, told: str | None) -> None:
    assert parting(HERE, there) == told


def test_of_several_the_first_in_time_is_told() -> None:
    here = {"late": [(9.0, "sent")], "early": [(2.0, "sent")]}
    there = {"late": [(9.0, "failed")], "early": [(2.0, "failed")]}

    assert parting(here, there) == "early sent at 2.000 s here, failed at 2.000 s there"


def test_a_course_has_what_every_world_tells() -> None:
    def event(at: float, kind: str, run: str = "r1", **detail: str) -> Event:
        return Event(at=100 + at, kind=EventKind(kind), run=run, task="t", detail=detail)

    log = EventLog(
        iter(
            [
                event(0, "sent"),
                event(1, "received"),
                event(2, "started"),
                event(0, "sent", "other"),
                event(3, "changed", "r2", status="INPUT"),
            ]
        )
    )
    verdict = Verdict(
        log=log, start=100.0, runs={"run": ("r1",), "flow": ("r2",)}, outcomes={}, mismatches=()
    )

    assert course_of(verdict) == {"run": [(0.0, "sent"), (2.0, "started")], "flow": [(3.0, "is INPUT")]}
