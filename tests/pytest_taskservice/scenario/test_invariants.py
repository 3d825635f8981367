"""What must hold in every story, against records that break it in one way each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_taskservice.drivers.base import Outcome, WorkflowOutcome
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.scenario.behaviour import Behaviour, Retry
from pytest_taskservice.scenario.expectations import check
from pytest_taskservice.scenario.invariants import check_invariants
from pytest_taskservice.scenario.model import INVARIANTS, Config, Workflow, WorkflowStep
from pytest_taskservice.scenario.record import ClientEvent, ClientTale, Launched, Record, Started
from tests.pytest_taskservice.scenario.stories import MARK, claim

START = 1000.0
DONE = Outcome(status="SUCCESS")
UP = ("0 worker_up w1 slots=1", "0 worker_up w2 slots=1 queues=slow")
RUN = Behaviour(runs_for=1.0)


def log(*lines: str, run: str = "r1") -> list[Event]:
    """``"0.5 started w1"``: what happened half a second into the story, where, and details."""
    found = []
    for line in lines:
        at, kind, *rest = line.split()
        details = dict(part.split("=") for part in rest if "=" in part)
        where = [part for part in rest if "=" not in part]
        kind = kind.replace("_", " ")
        of_worker = kind in {EventKind.WORKER_UP, EventKind.WORKER_GONE, EventKind.FAULT}
        if "queues" in details:
            details["queues"] = details["queues"].split(",")  # type: ignore[assignment] # a detail is anything
        if "id" in details:
            details["id"] = int(details["id"])  # type: ignore[assignment] # as above
        attempt = int(details.pop("attempt", 1))
        found.append(
            Event(
                at=START + float(at),
                kind=EventKind(kind),
                run="" if of_worker else details.pop("run", run),
                task="" if of_worker else "pack",
                attempt=attempt,
                worker=where[0] if where else "",
                detail=details,
            )
        )
    return found


def record(*lines: str, **parts: Any) -> Record:
    """A record of runs that were launched at the start, and all ended well."""
    events = log(*lines)
    runs = tuple(dict.fromkeys(event.run for event in events if event.run))
    made = Record(
        log=EventLog(iter(events)),
        start=START,
        end=START + 100,
        runs={"run": runs},
        accepted=runs,
        endings=dict.fromkeys(runs, DONE),
        launched=dict.fromkeys(runs, Launched(at=START, behaviour=RUN)),
    )
    return replace(made, **parts)


def flow(*lines: str, outcome: WorkflowOutcome | None = None, **parts: Any) -> Record:
    """A record of one workflow run that asks once."""
    workflow = Workflow(name="approval", mark=MARK, steps=(WorkflowStep(kind="ask", seconds=30.0),))
    made = record(
        runs={},
        accepted=(),
        endings={},
        launched={},
        workflows={"flow": ("f1",)},
        started={"f1": Started(at=START, workflow=workflow)},
        workflow_endings={"f1": outcome},
        config=Config(busy_after=10.0, data_ttl=50.0),
    )
    return replace(made, log=EventLog(iter(log(*lines, run="f1"))), **parts)


def broken(told: Record, **options: Any) -> list[tuple[str, str]]:
    """The names of the invariants that are broken, and how."""
    names = {sentence: name for name, sentence in INVARIANTS.items()}
    return [(names[each.invariant], each.got) for each in check_invariants(told, mark=MARK, **options)]


GOOD = ("0 sent", "0.1 received w1", "0.2 started w1", "1.2 succeeded w1")


@pytest.mark.parametrize(
    "lines",
    [
        GOOD,
        (*UP, *GOOD),
        # Redelivered, and begun again, before it had ended.
        (*GOOD[:3], "0.5 received w2", "0.6 started w2", "1.6 succeeded w2"),
        # Delivered once more when it had ended, and not begun.
        (*GOOD, "5 received w2"),
        # Both slots are taken; then it runs.
        (
            *UP,
            "0 sent",
            "0 received w1",
            "0 started w1",
            "1 sent run=r2 queue=celery",
            "30 succeeded w1",
            "30 received w1 run=r2",
            "30.1 started w1 run=r2",
            "31 succeeded w1 run=r2",
        ),
        # The free worker consumes another queue.
        (*UP, "0 sent queue=celery", "0 received w1", "1 started w1", "2 succeeded w1"),
    ],
)
def test_what_is_in_order_breaks_nothing(lines: tuple[str, ...]) -> None:
    assert broken(record(*lines)) == []


@pytest.mark.parametrize(
    ("lines", "name", "got"),
    [
        ((*GOOD, "5 started w2", "6 succeeded w2"), "final_is_final", "started after SUCCESS"),
        ((*GOOD, "5 failed w1"), "final_is_final", "failed after SUCCESS"),
        (
            ("0 worker_up w1 slots=1", *GOOD[:3], "0.3 sent run=r2", "0.4 started w1 run=r2",
             "1.2 succeeded w1 run=r2", "1.3 succeeded w1"),
            "slots",
            "2 runs at once in 1 slots",
        ),
        (
            ("0 worker_up w1 slots=1", "0 sent queue=celery", "0.1 received w1", "20 started w1",
             "21 succeeded w1"),
            "slots",
            "waited 19.9 s while a slot that could take it was free",
        ),
        (
            (*UP, "0 sent queue=slow", "20 received w2", "20 started w2", "21 succeeded w2"),
            "slots",
            "waited 20.0 s while a slot that could take it was free",
        ),
    ],
)  # fmt: skip
def test_a_run_that_breaks_a_rule_is_told(lines: tuple[str, ...], name: str, got: str) -> None:
    told = record(*lines)

    assert (name, got) in broken(told)
    assert name not in {each for each, _ in broken(told, unchecked={name})}


def test_two_ends_are_one_too_many() -> None:
    told = record(*GOOD, "2 started w2", "3 failed w2")

    found = broken(told, unchecked={"final_is_final"})

    assert found == [("one_final_state", "ended as SUCCESS and as FAILURE")]


def test_a_fault_explains_a_wait() -> None:
    told = record(
        "0 worker_up w1 slots=1", "0 sent", "1 fault w1", "20 received w1", "20 started w1", "21 succeeded w1"
    )

    assert broken(told) == []


def test_an_eta_explains_a_wait() -> None:
    told = record(
        "0 worker_up w1 slots=1", "0 sent", "0 received w1 eta=1970-01-01T00:17:10+00:00", "30 started w1",
        "31 succeeded w1", launched={"r1": Launched(at=START, countdown=30.0, behaviour=RUN)},
    )  # fmt: skip

    assert broken(told) == []


@pytest.mark.parametrize(
    ("lines", "facts", "got"),
    [
        (
            ("0 sent", "0.1 received", "4 started", "5 succeeded"),
            Launched(at=START, countdown=5.0, behaviour=RUN),
            "started 4.000 s after its launch, with a countdown of 5s",
        ),
        (
            ("0 sent", "0.1 started", "1.1 retried", "2.1 started attempt=2", "3.1 succeeded attempt=2"),
            Launched(
                at=START,
                behaviour=Behaviour(runs_for=1.0, fails_times=1, retry=Retry(max_attempts=2, delay=3)),
            ),
            "attempt 2 began 1.000 s after the one before, not 3s",
        ),
    ],
)
def test_a_timer_that_is_early_is_told(lines: tuple[str, ...], facts: Launched, got: str) -> None:
    assert broken(record(*lines, launched={"r1": facts})) == [("timers", got)]


def test_what_its_worker_could_not_tell_is_known_by_the_store() -> None:
    told = record("0 worker_up w1 slots=1", "0 sent", "0 received w1", "0 started w1", "2 worker_gone w1")

    assert broken(told) == []
    assert check([claim("eventually", "run", 3.0, status="SUCCESS")], told) == []


def test_what_its_worker_could_tell_and_did_not_is_no_truth() -> None:
    told = record("0 worker_up w1 slots=1", "0 sent", "0 received w1", "0 started w1")

    assert [name for name, _ in broken(told)] == ["one_final_state", "one_truth"]


FLOW = (
    "0 changed status=WAITING id=1",
    "1 changed status=RUNNING id=2",
    "2 asked id=3",
    "3 changed status=INPUT_OVER id=4",
    "3 changed status=RUNNING id=5",
    "4 told kind=progress id=6",
    "5 changed status=SUCCESS id=7",
)
PAID = WorkflowOutcome(status="SUCCESS", result="paid")


def test_a_workflow_run_in_order_breaks_nothing() -> None:
    told = flow(*FLOW, outcome=PAID)

    assert broken(told) == []
    assert check(
        [
            claim("at", "flow", 2.5, status="INPUT"),
            claim("eventually", "flow", 5.0, status="SUCCESS", result="paid"),
            claim("eventually", "flow", 5.0, events=["RUNNING", "asked", "INPUT_OVER", "progress"]),
            claim("never", "flow", status="FAILED"),
        ],
        told,
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    ("told", "name", "got"),
    [
        (flow(*FLOW, "6 told kind=late id=8", outcome=PAID), "final_is_final", "told after SUCCESS"),
        (flow(*FLOW[:2], outcome=None), "", ""),
        (
            flow(*FLOW[:2], outcome=WorkflowOutcome(status="RUNNING")),
            "one_final_state",
            "status RUNNING at the end",
        ),
        (
            flow(*FLOW[:2], "3 changed status=INPUT_OVER id=3", "4 changed status=RUNNING id=4",
                 "5 changed status=SUCCESS id=5", outcome=PAID),
            "state_machine",
            "INPUT_OVER in RUNNING",
        ),
        (
            flow(*FLOW, outcome=WorkflowOutcome(status="FAILED", reason="stopped")),
            "one_truth",
            "stored FAILED stopped, while the events say SUCCESS",
        ),
        (flow(*FLOW[:5], FLOW[6], outcome=PAID), "one_truth", "event 7 behind event 5"),
        (
            flow(FLOW[0], "4 changed status=FAILED reason=busy id=2",
                 outcome=WorkflowOutcome(status="FAILED", reason="busy")),
            "timers",
            "busy after 4.000 s, the deadline is 10s",
        ),
        (
            flow(*FLOW[:3], "9 changed status=FAILED reason=input_timeout id=4",
                 outcome=WorkflowOutcome(status="FAILED", reason="input_timeout")),
            "timers",
            "input_timeout after 7.000 s, the deadline is 30s",
        ),
        (
            flow(*FLOW, outcome=PAID, keys={"f1": ((START + 200, 3),)}),
            "keys_return",
            "3 keys 195 s after its last news",
        ),
        (flow(*FLOW, outcome=PAID, keys={"f1": ((START + 200, 0),)}), "", ""),
        (flow(*FLOW, outcome=PAID, keys={"f1": ((START + 30, 3),)}), "", ""),
    ],
)  # fmt: skip
def test_a_workflow_run_that_breaks_a_rule_is_told(told: Record, name: str, got: str) -> None:
    assert broken(told) == ([(name, got)] if name else [])


def client(*ids: int) -> dict[str, tuple[ClientTale, ...]]:
    events = tuple(ClientEvent(at=START + number, id=number, kind="progress") for number in ids)
    return {"client": (ClientTale(run="f1", at=START, events=events),)}


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ((1, 2, 3), []),
        ((1, 3), [("client_stream", "event 3 behind event 1")]),
        ((1, 2, 2), [("client_stream", "event 2 again")]),
        ((2,), [("client_stream", "event 2 behind event 0")]),
    ],
)
def test_a_client_sees_each_event_once(ids: tuple[int, ...], found: list[tuple[str, str]]) -> None:
    told = flow(*FLOW, outcome=PAID, clients=client(*ids))

    assert broken(told) == found
    events = claim("eventually", "client", 99.0, events=["progress"] * len(ids))
    assert check([events], told) == []
