from __future__ import annotations

from typing import Any

import pytest

from pytest_taskservice.drivers.base import Outcome
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.expectations import Mismatch, Record, check
from pytest_taskservice.scenario.invariants import (
    FINAL_IS_FINAL,
    NOTHING_UNSENT,
    ONE_FINAL_STATE,
    ONE_TRUTH,
    STATE_MACHINE,
    check_invariants,
)
from pytest_taskservice.scenario.model import Expectation, Property

MARK = Mark(path="f.yaml", line=9, column=7)
PAID = Outcome(status="SUCCESS", result="paid")
BOOM = Outcome(status="FAILURE", error="ValueError", message="boom")


def events(*told: str, run: str = "r1") -> list[Event]:
    """``"0.5 started 2"`` is the start of attempt 2, half a second into the story."""
    found = []
    for line in told:
        at, kind, *attempt = line.split()
        found.append(
            Event(
                at=1000 + float(at),
                kind=EventKind(kind),
                run=run,
                task="charge",
                attempt=int(attempt[0]) if attempt else 1,
            )
        )
    return found


GOOD = ("0 sent", "0.1 received", "0.2 started", "1 succeeded")
RETRIED = ("0 sent", "0.1 started", "0.2 retried", "0.3 started 2", "0.4 succeeded 2")


def record(*told: str, ending: Outcome = PAID) -> Record:
    return Record(
        log=EventLog(iter(events(*told))),
        start=1000.0,
        runs={"run": ("r1",)},
        accepted=("r1",),
        endings={"r1": ending},
    )


def judge(kind: Property, told: Record, *, instant: float | None = None, **wanted: Any) -> list[Mismatch]:
    claim = Expectation(mark=MARK, property=kind, of="run", wanted=wanted, instant=instant)
    return check([claim], told)


@pytest.mark.parametrize(
    "wanted",
    [
        {"status": "SUCCESS"},
        {"status": "STARTED"},
        {"result": "paid"},
        {"attempts": 1, "status": "SUCCESS"},
        {"events": ["sent", "started", "succeeded"]},
        {"events": ["received"]},
    ],
)
def test_eventually_holds_if_it_was_so_once(wanted: dict[str, Any]) -> None:
    assert judge(Property.EVENTUALLY, record(*GOOD), instant=1, **wanted) == []


@pytest.mark.parametrize(
    ("wanted", "expected", "got"),
    [
        ({"status": "FAILURE"}, "status FAILURE", "status SUCCESS, result 'paid'"),
        ({"result": "paid twice"}, "result 'paid twice'", "status SUCCESS, result 'paid'"),
        ({"attempts": 2}, "attempts 2", "status SUCCESS, result 'paid', attempts 1"),
        ({"error": "ValueError"}, "error ValueError", "status SUCCESS, result 'paid'"),
        ({"reason": "error"}, "reason error", "status SUCCESS, result 'paid', reason none"),
        (
            {"events": ["started", "sent"]},
            "events started, sent",
            "status SUCCESS, result 'paid', events sent, received, started, succeeded",
        ),
    ],
)
def test_eventually_tells_how_it_ended_instead(wanted: dict[str, Any], expected: str, got: str) -> None:
    assert judge(Property.EVENTUALLY, record(*GOOD), instant=5, **wanted) == [
        Mismatch(mark=MARK, expected=f"within 5s: {expected}", got=got, run="run", at=1.0)
    ]


def test_eventually_is_broken_by_what_comes_too_late() -> None:
    (mismatch,) = judge(Property.EVENTUALLY, record(*GOOD), instant=0.9, status="SUCCESS")

    assert mismatch.got == "status SUCCESS, result 'paid', too late"
    assert mismatch.at == 1.0


@pytest.mark.parametrize(
    ("instant", "status"), [(0.0, "PENDING"), (0.1, "PENDING"), (0.2, "STARTED"), (9.0, "SUCCESS")]
)
def test_an_instant_sees_what_happened_no_later(instant: float, status: str) -> None:
    assert judge(Property.AT, record(*GOOD), instant=instant, status=status) == []


def test_an_instant_before_the_launch_sees_nothing() -> None:
    (mismatch,) = judge(Property.AT, record("1 sent"), instant=0.5, status="PENDING")

    assert (mismatch.got, mismatch.at) == ("not sent yet", None)


def test_no_result_is_known_before_the_end() -> None:
    (mismatch,) = judge(Property.AT, record(*GOOD), instant=0.5, result="paid")

    assert mismatch.got == "status STARTED"
    assert mismatch.at == pytest.approx(0.2)


def test_never_is_broken_by_the_first_event_at_which_it_is_so() -> None:
    (mismatch,) = judge(Property.NEVER, record(*RETRIED), status="RETRY")

    assert mismatch.expected == "never status RETRY"
    assert mismatch.at == pytest.approx(0.2)


def test_always_is_broken_by_the_first_event_at_which_it_is_not_so() -> None:
    assert judge(Property.ALWAYS, record(*GOOD), attempts=1) == []

    (mismatch,) = judge(Property.ALWAYS, record(*RETRIED), attempts=1)

    assert mismatch.got == "status STARTED, attempts 2"
    assert mismatch.at == pytest.approx(0.3)


@pytest.mark.parametrize("kind", [Property.EVENTUALLY, Property.AT, Property.ALWAYS, Property.NEVER], ids=str)
def test_a_run_without_events_meets_nothing(kind: Property) -> None:
    (mismatch,) = judge(kind, record(), instant=5, attempts=1)

    assert mismatch.got == "no event of it"


def test_a_run_that_was_never_launched_meets_nothing() -> None:
    told = Record(log=EventLog(), start=0.0, runs={}, accepted=(), endings={})

    (mismatch,) = judge(Property.NEVER, told, status="FAILURE")

    assert mismatch.got == "it was never launched: the story ended before"


def test_each_of_several_runs_is_judged() -> None:
    log = EventLog(iter(events(*GOOD) + events("0 sent", "1 failed", run="r2")))
    told = Record(
        log=log,
        start=1000.0,
        runs={"run": ("r1", "r2")},
        accepted=("r1", "r2"),
        endings={"r1": PAID, "r2": BOOM},
    )

    (mismatch,) = judge(Property.EVENTUALLY, told, instant=5, status="SUCCESS")

    assert mismatch.run == "run#2"
    assert mismatch.got == "status FAILURE, error ValueError: boom"


@pytest.mark.parametrize("error", ["ValueError", "boom", "ValueError: boom"])
def test_an_error_is_known_by_class_and_text(error: str) -> None:
    told = record("0 sent", "0 started", "1 failed", ending=BOOM)

    assert judge(Property.EVENTUALLY, told, instant=1, error=error) == []
    assert judge(Property.EVENTUALLY, told, instant=1, error=error[:-1]) != []


def test_the_quotes_of_a_key_error_need_not_be_known() -> None:
    ending = Outcome(status="FAILURE", error="KeyError", message="'lamp'")
    told = record("0 sent", "1 failed", ending=ending)

    assert judge(Property.EVENTUALLY, told, instant=1, error="KeyError: lamp") == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("SoftTimeLimitExceeded", "soft_time_limit"),
        ("TimeLimitExceeded", "hard_time_limit"),
        ("ValueError", "error"),
    ],
)
def test_a_reason_is_read_off_the_exception(error: str, reason: str) -> None:
    told = record("0 sent", "1 failed", ending=Outcome(status="FAILURE", error=error))

    assert judge(Property.EVENTUALLY, told, instant=1, reason=reason) == []


@pytest.mark.parametrize(
    ("got", "wanted", "same"),
    [
        ((1, 2), [1, 2], True),
        (1, True, False),
        (0, False, False),
        (1.0, 1, True),
        ({"a": (1,)}, {"a": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        ([1], [1, 2], False),
        (None, None, True),
        ("1", 1, False),
    ],
)
def test_results_are_compared_as_json(got: object, wanted: object, *, same: bool) -> None:
    told = record(*GOOD, ending=Outcome(status="SUCCESS", result=got))

    assert (judge(Property.EVENTUALLY, told, instant=1, result=wanted) == []) is same


@pytest.mark.parametrize(
    "told",
    [
        GOOD,
        RETRIED,
        pytest.param(("0 sent", "0 started", "1 started", "2 succeeded"), id="delivered again"),
        pytest.param(("0 received", "0.1 sent", "0.2 started", "1 succeeded"), id="sent told late"),
        pytest.param(
            (
                "0 sent",
                "0 started",
                "0.1 sent 2",
                "0.2 started 2",
                "0.3 succeeded 2",
                "0.4 retried",
            ),
            id="retried told late",
        ),
        pytest.param(
            ("0 sent", "0 started", "1 received 2", "1 started 2", "1 retried 2", "2 succeeded 2"),
            id="retried told late with the next number",
        ),
        pytest.param(
            (
                "0 sent",
                "1 received 2",
                "1 started 2",
                "1 retried 2",
                "1 started 2",
                "2 succeeded 2",
            ),
            id="all told with the next number",
        ),
    ],
)
def test_an_ordinary_life_breaks_no_invariant(told: tuple[str, ...]) -> None:
    assert check_invariants(record(*told), mark=MARK) == []


def test_a_cause_told_late_is_no_later_than_its_effect() -> None:
    late = record("0 sent", "0 started", "1 started 2", "2 succeeded 2", "3 retried")

    assert judge(Property.EVENTUALLY, late, instant=1, status="RETRY") == []
    assert judge(Property.AT, late, instant=1, status="STARTED", attempts=2) == []


def test_a_run_that_is_revoked_may_still_be_delivered() -> None:
    told = record("0 sent", "1 revoked", "2 received", "2 revoked", ending=Outcome(status="REVOKED"))

    assert check_invariants(told, mark=MARK) == []


@pytest.mark.parametrize(
    ("told", "ending", "invariant", "got"),
    [
        (("0 sent", "0 started"), "STARTED", ONE_FINAL_STATE, "status STARTED at the end"),
        ((), "PENDING", ONE_FINAL_STATE, "left no event"),
        (("0 started", "1 succeeded"), "SUCCESS", NOTHING_UNSENT, "began with started"),
        ((*GOOD, "2 failed"), "FAILURE", FINAL_IS_FINAL, "failed after SUCCESS"),
        ((*GOOD, "2 started"), "STARTED", FINAL_IS_FINAL, "started after SUCCESS"),
        (("0 sent", "1 succeeded"), "SUCCESS", STATE_MACHINE, "succeeded (attempt 1) in PENDING"),
        (
            ("0 sent", "0 started", "1 started 2", "2 succeeded 2"),
            "SUCCESS",
            STATE_MACHINE,
            "started (attempt 2) in STARTED (attempt 1)",
        ),
        (
            ("0 sent", "0 started", "1 retried", "2 retried", "3 started 2", "4 succeeded 2"),
            "SUCCESS",
            STATE_MACHINE,
            "retried (attempt 1) in RETRY (attempt 1)",
        ),
        (GOOD, "FAILURE", ONE_TRUTH, "stored FAILURE, while the events say SUCCESS"),
        (GOOD, "PENDING", ONE_TRUTH, "stored PENDING, while the events say SUCCESS"),
    ],
)
def test_a_broken_invariant_is_named(told: tuple[str, ...], ending: str, invariant: str, got: str) -> None:
    found = check_invariants(record(*told, ending=Outcome(status=ending)), mark=MARK)

    assert found[0].invariant == invariant
    assert found[0].got.startswith(got)
    assert found[0].run == "run"


def test_what_only_the_result_backend_knows_is_told() -> None:
    ending = Outcome(status="FAILURE", error="NotRegistered", message="charge")

    found = check_invariants(record("0 sent", ending=ending), mark=MARK)

    got = "stored FAILURE (NotRegistered: charge), while the events say PENDING"
    assert [one.got for one in found] == ["status PENDING at the end", got]


def test_an_event_of_a_stranger_is_found() -> None:
    told = record(*GOOD)
    told.log.append(events("1 started", run="ghost")[0])

    found = check_invariants(told, mark=MARK)

    assert [(one.run, one.invariant) for one in found] == [
        ("charge (ghost)", NOTHING_UNSENT),
        ("charge (ghost)", ONE_FINAL_STATE),
    ]
