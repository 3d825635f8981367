from __future__ import annotations

from dataclasses import replace
from textwrap import dedent
from typing import Any

from pytest_taskservice.drivers.base import Outcome
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.report.play import Play
from pytest_taskservice.report.text import first_line, quoted, render_play
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.engine import Verdict
from pytest_taskservice.scenario.expectations import Mismatch
from pytest_taskservice.scenario.model import Scenario

MARK = Mark(path="shop.scenario.yaml", line=12, column=7)
STORY = Scenario(mark=MARK, name="a card is charged", case="lamp-2")
REPLAY = "pytest 'shop.scenario.yaml::a card is charged[lamp-2]'"


def rendered(verdict: Verdict, **known: Any) -> str:
    return render_play(
        Play(scenario=STORY, verdict=verdict, backend="anyio", world="anyio-trio", **{"replay": "x", **known})
    )


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

    text = rendered(played, replay=REPLAY)

    assert text == dedent(
        """\
        a card is charged[lamp-2]: 2 mismatches
        anyio-trio

          shop.scenario.yaml:12:7
            expected  payment: within 5s: status SUCCESS
            got       payment: status FAILURE, error OSError: no cash, at 0.123 s

          shop.scenario.yaml:1:1
            invariant pair#2: every accepted run reaches exactly one final state
            got       pair#2: left no event

          time     worker
          0.000    test    payment sent
          0.001    test    pair#1 sent
          0.012    w1      payment started
          0.013    w2      pair#1 started
          0.014    w2      mail#1 sent
          0.020    w1      payment retried
          0.021    w2      pair#1 succeeded (-1)
          0.122    w1      payment started, attempt 2
          0.123    w1      payment failed, attempt 2 (OSError: no cash)

          replay:  pytest 'shop.scenario.yaml::a card is charged[lamp-2]'"""
    )


def test_many_workers_are_told_line_by_line() -> None:
    played = verdict(*(event(n, "started", "r1", worker=f"w{n}") for n in range(5)))

    lines = rendered(played).splitlines()

    assert lines[3:6] == [
        "  time     worker",
        "  0.000    w0      payment started",
        "  1.000    w1      payment started",
    ]


def test_a_long_story_is_told_from_both_ends() -> None:
    played = verdict(*(event(n, "started", "r1") for n in range(100)))

    lines = rendered(played).splitlines()

    assert lines[23:26] == [
        "  19.000   payment started",
        "  ... 60 more events ...",
        "  80.000   payment started",
    ]
    assert len(lines) == 47


def test_a_story_without_events_says_so() -> None:
    text = rendered(verdict())

    assert text == "a card is charged[lamp-2]: as expected\nanyio-trio\n\n  nothing happened\n\n  replay:  x"


def test_only_the_first_mismatches_are_shown() -> None:
    mismatches = tuple(Mismatch(mark=MARK, expected="a", got="b") for _ in range(12))

    text = rendered(verdict(mismatches=mismatches))

    assert text.startswith("a card is charged[lamp-2]: 12 mismatches\n")
    assert text.count("got       b") == 10
    assert "  ... and 2 more\n" in text


def test_few_workers_have_a_column_each() -> None:
    played = verdict(event(0, "sent", "r1"), event(1, "started", "r1", worker="w1"))

    lines = rendered(played).splitlines()

    assert lines[3:6] == [
        "  time     test          w1",
        "  0.000    payment sent",
        "  1.000                  payment started",
    ]


def test_all_that_was_drawn_comes_first() -> None:
    text = rendered(
        verdict(),
        seed=7,
        digest="091bb93b12320765",
        options={"start": "2026-01-01T00:00:00+00:00", "concurrency": 2},
        record="out/run.json",
    )

    assert text.splitlines()[1:3] == [
        "anyio · seed 7 · start 2026-01-01T00:00:00+00:00 · concurrency 2",
        "digest 091bb93b12320765",
    ]
    assert text.endswith("  replay:  x\n  record:  out/run.json")


def test_the_line_of_the_file_is_shown_with_a_caret() -> None:
    lines = ["x"] * 11 + ["    - {within: 5s, of: payment, status: SUCCESS}"]

    assert quoted(MARK, lines) == [
        "    12 |     - {within: 5s, of: payment, status: SUCCESS}",
        "       |       ^",
    ]
    assert quoted(Mark(path="gone", line=13, column=1), lines) == []


def test_a_long_line_is_cut_around_its_column() -> None:
    above, below = quoted(Mark(path="x", line=1, column=150), ["a" * 149 + "B" + "c" * 100])

    assert len(above) <= 80
    assert above[below.index("^")] == "B"


def test_what_a_workflow_tells_is_in_the_table() -> None:
    def told(word: str, **detail: Any) -> Event:
        return Event(at=1000, kind=EventKind(word), run="r1", task="approval", detail=detail)

    lines = rendered(
        verdict(
            told("changed", status="INPUT"),
            told("asked", prompt="approve?", question="q1"),
            told("told", kind="progress", data={"percent": 50}),
            told("changed", status="FAILED", reason="busy"),
            Event(at=1001, kind=EventKind.FAULT, run="", task="", detail={"fault": "kill", "restart": "2s"}),
            Event(
                at=1002, kind=EventKind.WORKER_UP, run="", task="", detail={"slots": 2, "queues": ["a", "b"]}
            ),
            Event(at=1003, kind=EventKind.HEALED, run="", task=""),
        )
    ).splitlines()

    assert [line[11:] for line in lines[4:11]] == [
        "payment is INPUT",
        "payment asked: approve?",
        "payment told progress {'percent': 50}",
        "payment is FAILED (busy)",
        "fault: kill, restart 2s",
        "worker up: slots 2, queues a b",
        "healed",
    ]


def test_a_summary_has_one_line_about_a_mismatch() -> None:
    mismatch = Mismatch(
        mark=MARK, expected="at 5s: status X", got="status Y\nand more", run="payment", at=5.0
    )

    assert first_line(mismatch) == "payment: at 5s: status X; got status Y and more, at 5.000 s"


def test_what_is_captured_beside_runs_has_no_outcome() -> None:
    played = replace(verdict(event(0, "sent", "r1")), outcomes={})

    assert "payment sent" in rendered(played)
