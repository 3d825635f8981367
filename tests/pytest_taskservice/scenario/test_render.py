from __future__ import annotations

from textwrap import dedent

from pytest_taskservice.drivers.base import Outcome
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.report.text import render_verdict
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.engine import Verdict
from pytest_taskservice.scenario.expectations import Mismatch
from pytest_taskservice.scenario.model import Scenario

MARK = Mark(path="shop.scenario.yaml", line=12, column=7)
STORY = Scenario(mark=MARK, name="a card is charged", case="lamp-2")
REPLAY = "pytest 'shop.scenario.yaml::a card is charged[lamp-2]'"


def event(at: float, kind: str, run: str, *, worker: str = "", attempt: int = 1) -> Event:
    return Event(
        at=1000 + at,
        kind=EventKind(kind),
        run=run,
        task="charge" if run.startswith("r") else "mail",
        worker=worker,
        attempt=attempt,
    )


def verdict(*events: Event, mismatches: tuple[Mismatch, ...] = ()) -> Verdict:
    return Verdict(
        log=EventLog(iter(events)),
        start=1000.0,
        runs={"payment": ("r1",), "pair": ("r2", "r3")},
        outcomes={
            "payment": (Outcome(status="FAILURE", error="OSError", message="no\ncash"),),
            "pair": (Outcome(status="SUCCESS", result=-1), Outcome(status="PENDING")),
        },
        mismatches=mismatches,
    )


def test_a_report_reads_from_the_mistake_to_the_replay() -> None:
    played = verdict(
        event(0, "sent", "r1"),
        event(0.001, "sent", "r2"),
        event(0.012, "started", "r1", worker="w1"),
        event(0.013, "started", "r2", worker="w2"),
        event(0.014, "sent", "m7", worker="w2"),
        event(0.02, "retried", "r1", worker="w1"),
        event(0.021, "succeeded", "r2", worker="w2"),
        event(0.122, "started", "r1", worker="w1", attempt=2),
        event(0.123, "failed", "r1", worker="w1", attempt=2),
        mismatches=(
            Mismatch(
                mark=MARK,
                expected="within 5s: status SUCCESS",
                got="status FAILURE, error OSError: no cash",
                run="payment",
                at=0.123,
            ),
            Mismatch(
                mark=Mark(path="shop.scenario.yaml", line=1, column=1),
                expected="every accepted run reaches exactly one final state",
                got="left no event",
                run="pair#2",
                invariant="every accepted run reaches exactly one final state",
            ),
        ),
    )

    text = render_verdict(STORY, played, replay=REPLAY)

    assert text == dedent(
        """\
        a card is charged[lamp-2]: 2 mismatches

          shop.scenario.yaml:12:7
            expected  payment: within 5s: status SUCCESS
            got       payment: status FAILURE, error OSError: no cash, at 0.123 s

          shop.scenario.yaml:1:1
            invariant pair#2: every accepted run reaches exactly one final state
            got       pair#2: left no event

          time     test          w1                                            w2
          0.000    payment sent
          0.001    pair#1 sent
          0.012                  payment started
          0.013                                                                pair#1 started
          0.014                                                                mail#1 sent
          0.020                  payment retried
          0.021                                                                pair#1 succeeded (-1)
          0.122                  payment started, attempt 2
          0.123                  payment failed, attempt 2 (OSError: no cash)

          replay:  pytest 'shop.scenario.yaml::a card is charged[lamp-2]'"""
    )


def test_many_workers_are_told_line_by_line() -> None:
    played = verdict(*(event(n, "started", "r1", worker=f"w{n}") for n in range(5)))

    lines = render_verdict(STORY, played, replay="x").splitlines()

    assert lines[2:5] == [
        "  time     worker",
        "  0.000    w0      payment started",
        "  1.000    w1      payment started",
    ]


def test_a_long_story_is_told_from_both_ends() -> None:
    played = verdict(*(event(n, "started", "r1") for n in range(100)))

    lines = render_verdict(STORY, played, replay="x").splitlines()

    assert lines[22:25] == [
        "  19.000   payment started",
        "  ... 60 more events ...",
        "  80.000   payment started",
    ]
    assert len(lines) == 46


def test_a_story_without_events_says_so() -> None:
    text = render_verdict(STORY, verdict(), replay="x")

    assert text == "a card is charged[lamp-2]: as expected\n\n  nothing happened\n\n  replay:  x"


def test_only_the_first_mismatches_are_shown() -> None:
    mismatches = tuple(Mismatch(mark=MARK, expected="a", got="b") for _ in range(12))

    text = render_verdict(STORY, verdict(mismatches=mismatches), replay="x")

    assert text.startswith("a card is charged[lamp-2]: 12 mismatches\n")
    assert text.count("got       b") == 10
    assert "  ... and 2 more\n" in text
