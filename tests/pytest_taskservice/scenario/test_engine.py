from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.drivers.base import Capability, CapabilityError, Outcome, TaskCall
from pytest_taskservice.errors import HarnessTimeoutError
from pytest_taskservice.history import Event, EventKind, EventLog
from pytest_taskservice.scenario.behaviour import Behaviour
from pytest_taskservice.scenario.engine import REAL_TIME, Clock, run
from pytest_taskservice.scenario.invariants import ONE_FINAL_STATE
from pytest_taskservice.scenario.load import load, load_text
from pytest_taskservice.scenario.model import Scenario, Skip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.drivers.base import Driver

HEAD = "schema: 1\nname: x\n"
EPOCH = 1_700_000_000.0
END = {"SUCCESS": EventKind.SUCCEEDED, "FAILURE": EventKind.FAILED}


@dataclass
class World:
    """A driver whose runs happen in virtual time, each exactly as its behaviour says.

    ``stuck`` tasks start and never end; ``told`` is how the driver was used.
    """

    name: str = "scripted"
    capabilities: frozenset[Capability] = frozenset(Capability)
    now: float = 0.0
    stuck: frozenset[str] = frozenset()
    told: list[tuple[float, str]] = field(default_factory=list)
    calls: list[TaskCall] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    endings: dict[str, Outcome] = field(default_factory=dict)

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: 50.0 + self.now, wall=lambda: EPOCH + self.now, pause=self.pause)

    def pause(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 6)

    def cannot(self, capability: Capability) -> str | None:
        return None

    def launch(self, call: TaskCall) -> str:
        run = f"r{len(self.calls) + 1}"
        self.told.append((self.now, f"launch {call.label}"))
        self.calls.append(call)
        data: Mapping[str, Any] = call.args[0] if call.task == "taskservice.synthetic" else {}
        self._live(run, call.label or call.task, Behaviour.from_json(data), call.countdown or 0.0)
        return run

    def outcome(self, run_id: str) -> Outcome:
        seen = [event for event in self.log() if event.run == run_id]
        if seen and seen[-1].kind in {*END.values(), EventKind.REVOKED}:
            return self.endings[run_id]
        return Outcome(status="STARTED" if len(seen) > 1 else "PENDING")

    def revoke(self, run_id: str) -> None:
        self.told.append((self.now, f"revoke {run_id}"))
        task = next(event.task for event in self.events if event.run == run_id)
        past = [one for one in self.events if one.run != run_id or one.at <= EPOCH + self.now]
        self.events = past
        self._tell(self.now, EventKind.REVOKED, run_id, task, 1)
        self.endings[run_id] = Outcome(status="REVOKED")

    def settle(self, *, timeout: float) -> None:
        self.told.append((self.now, f"settle {timeout:g}"))
        last = max((event.at - EPOCH for event in self.events), default=0.0)
        unfinished = [call.label for call in self.calls if call.label in self.stuck]
        if unfinished or last > self.now + timeout:
            self.now += timeout
            raise HarnessTimeoutError(f"{unfinished} did not end within {timeout:g} s")

        self.now = max(self.now, last)

    def log(self) -> EventLog:
        return EventLog(iter([event for event in self.events if event.at <= EPOCH + self.now]))

    def reset(self) -> None:
        self.events.clear()

    def close(self) -> None:
        pass

    def _live(self, run: str, task: str, behaviour: Behaviour, countdown: float) -> None:
        self._tell(self.now, EventKind.SENT, run, task, 1)
        at, attempt = self.now + countdown, 1
        while True:
            self._tell(at, EventKind.STARTED, run, task, attempt)
            if task in self.stuck:
                return
            at += behaviour.runs_for
            error = behaviour.failure(attempt)
            delay = None if error is None else behaviour.retry_delay(attempt)
            if delay is None:
                break
            self._tell(at, EventKind.RETRIED, run, task, attempt)
            at, attempt = at + delay, attempt + 1

        ending = Outcome(status="SUCCESS", result=behaviour.returns, attempts=attempt)
        if error is not None:
            name, text = type(error).__name__, str(error)
            ending = Outcome(status="FAILURE", error=name, message=text, attempts=attempt)
        self.endings[run] = ending
        self._tell(at, END[ending.status], run, task, attempt)

    def _tell(self, at: float, kind: EventKind, run: str, task: str, attempt: int) -> None:
        worker = "" if kind in {EventKind.SENT, EventKind.REVOKED} else "w1"
        self.events.append(
            Event(at=EPOCH + at, kind=kind, run=run, task=task, attempt=attempt, worker=worker)
        )


@pytest.fixture
def world() -> World:
    """A driver that plays behaviours in virtual time."""
    return World()


def story(text: str) -> Scenario:
    (scenario,) = load_text(HEAD + dedent(text), "f.yaml")
    return scenario


@pytest.mark.parametrize("backend", ["celery", "celery-eager", "anyio"])
def test_the_scenarios_of_this_repository_hold_in_a_perfect_world(backend: str) -> None:
    root = Path(__file__).parents[3] / "scenarios" / "first"
    for scenario in (one for path in root.glob("*.yaml") for one in load(path)):
        played = scenario.for_backend(backend)
        if isinstance(played, Skip):
            continue

        world = World()
        assert run(played, world, clock=world.clock()).mismatches == ()


def test_steps_happen_at_their_instants(world: World) -> None:
    scenario = story(
        """\
        tasks: {a: {runs_for: 1s}, b: {}}
        steps:
          - {launch: a, as: first}
          - {at: 2s, launch: b}
          - {after: 500ms, launch: b}
          - {wait: 1s}
          - {launch: b}
          - {launch: a, as: last}
          - {wait: last}
          - {after: 1s, launch: b}
        expect:
          at:
            - {time: 500ms, of: first, status: STARTED}
            - {time: 1s, of: first, status: SUCCESS}
        """
    )

    verdict = run(scenario, world, clock=world.clock())

    assert verdict.passed
    assert [(round(at, 6), what) for at, what in world.told] == [
        (0.0, "launch a"),
        (2.0, "launch b"),
        (2.5, "launch b"),
        (3.5, "launch b"),
        (3.5, "launch a"),
        (5.5, "launch b"),
        (5.5, "settle 12"),
    ]


def test_a_launch_sends_all_that_the_file_says(world: World) -> None:
    scenario = story(
        """\
        config: {task_soft_time_limit: 1s, task_time_limit: 2s}
        tasks:
          a: {returns: 7, queue: q, priority: 3}
          b: {call: shop.tasks.b}
        steps:
          - {launch: a, count: 2, countdown: 1s, expires: 1m, as: run}
          - {launch: b, args: [1], kwargs: {x: 2}}
        expect: {eventually: [{within: 5s, of: run, result: 7}]}
        """
    )

    run(scenario, world, clock=world.clock())

    synthetic = TaskCall(
        task="taskservice.synthetic",
        args=({"returns": 7},),
        label="a",
        countdown=1.0,
        expires=60.0,
        queue="q",
        priority=3,
        soft_time_limit=1.0,
        time_limit=2.0,
    )
    real = TaskCall(
        task="shop.tasks.b",
        args=(1,),
        kwargs={"x": 2},
        label="b",
        soft_time_limit=1.0,
        time_limit=2.0,
    )
    assert world.calls == [synthetic, synthetic, real]


def test_a_verdict_holds_runs_and_outcomes_by_name(world: World) -> None:
    scenario = story(
        """\
        tasks: {a: {returns: 1}, b: {fails_with: "ValueError: no"}}
        steps:
          - {launch: a, count: 2, as: good}
          - {launch: b, as: bad}
        expect: {eventually: [{within: 5s, of: bad, status: FAILURE}]}
        """
    )

    verdict = run(scenario, world, clock=world.clock())

    assert verdict.runs == {"good": ("r1", "r2"), "bad": ("r3",)}
    assert [outcome.result for outcome in verdict.outcomes["good"]] == [1, 1]
    assert [outcome.message for outcome in verdict.outcomes["bad"]] == ["no"]
    assert len(verdict.log) == 9


def test_a_broken_expectation_is_told_with_its_place_and_instant(world: World) -> None:
    scenario = story(
        """\
        tasks: {a: {runs_for: 250ms, fails_with: "ValueError: no"}}
        steps: [{launch: a, as: run}]
        expect: {eventually: [{within: 5s, of: run, status: SUCCESS}]}
        """
    )

    (mismatch,) = run(scenario, world, clock=world.clock()).mismatches

    assert str(mismatch.mark) == "f.yaml:5:23"
    assert mismatch.expected == "within 5s: status SUCCESS"
    assert mismatch.got == "status FAILURE, error ValueError: no"
    assert mismatch.at == pytest.approx(0.25)


def test_a_revoked_run_is_withdrawn(world: World) -> None:
    scenario = story(
        """\
        tasks: {a: {}}
        steps:
          - {launch: a, countdown: 1h, as: run}
          - {after: 1s, revoke: run}
        expect: {eventually: [{within: 2s, of: run, status: REVOKED}]}
        """
    )

    verdict = run(scenario, world, clock=world.clock())

    assert verdict.passed
    assert (1.0, "revoke r1") in world.told


def test_the_world_is_given_the_time_that_the_expectations_allow(world: World) -> None:
    scenario = story(
        """\
        tasks: {a: {runs_for: 20s}}
        steps: [{launch: a, as: run}]
        expect: {eventually: [{within: 1m, of: run, status: SUCCESS}]}
        """
    )

    run(scenario, world, clock=world.clock())

    assert world.told[-1] == (0.0, "settle 60")


def test_the_world_is_given_the_time_that_the_story_needs(world: World) -> None:
    scenario = story(
        """\
        tasks: {a: {runs_for: 20s}}
        steps: [{launch: a, as: run}]
        expect: {never: [{of: run, status: FAILURE}]}
        """
    )

    assert run(scenario, world, clock=world.clock()).passed
    assert world.told[-1] == (0.0, "settle 30")


def test_a_run_that_never_ends_breaks_an_invariant(world: World) -> None:
    world.stuck = frozenset({"a"})
    scenario = story(
        """\
        tasks: {a: {}}
        steps: [{launch: a, as: run}]
        expect: {never: [{of: run, status: FAILURE}]}
        """
    )

    (mismatch,) = run(scenario, world, clock=world.clock()).mismatches

    assert (mismatch.invariant, mismatch.run) == (ONE_FINAL_STATE, "run")
    assert mismatch.got == "status STARTED at the end"


def test_a_wait_in_vain_ends_the_story_but_not_what_comes_finally(world: World) -> None:
    world.stuck = frozenset({"a"})
    scenario = story(
        """\
        tasks: {a: {}, b: {}, c: {}}
        steps:
          - {launch: a, as: run}
          - {wait: run, within: 2s}
          - {launch: b, as: behind}
        expect: {eventually: [{within: 1s, of: behind, status: SUCCESS}]}
        finally: [{launch: c}, {revoke: behind}]
        """
    )

    verdict = run(scenario, world, clock=world.clock())

    late, never = verdict.mismatches[:2]
    assert str(late.mark) == "f.yaml:6:5"
    assert late.expected == "over within 2s of waiting"
    assert late.at == pytest.approx(2.0)
    assert late.got == "status STARTED; the steps below were not played"
    assert never.got == "it was never launched: the story ended before"
    assert [call.label for call in world.calls] == ["a", "c"]


def test_what_comes_finally_is_played_although_a_launch_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(call: TaskCall) -> str:
        if call.label == "a":
            raise CapabilityError("scripted", "eta", "no clock")
        return launch(call)

    launch = world.launch
    monkeypatch.setattr(world, "launch", refuse)
    scenario = story(
        """\
        tasks: {a: {}, b: {}}
        steps: [{launch: a, as: run}]
        expect: {never: [{of: run, status: FAILURE}]}
        finally: [{launch: b}]
        """
    )

    with pytest.raises(CapabilityError):
        run(scenario, world, clock=world.clock())

    assert [call.label for call in world.calls] == ["b"]


def test_what_happens_finally_is_not_judged_but_has_to_end(world: World) -> None:
    world.stuck = frozenset({"b"})
    scenario = story(
        """\
        tasks: {a: {}, b: {}}
        steps: [{launch: a, as: run}]
        expect: {eventually: [{within: 1s, of: run, status: SUCCESS}]}
        finally: [{launch: b}]
        """
    )

    verdict = run(scenario, world, clock=world.clock())

    assert [str(mismatch.mark) for mismatch in verdict.mismatches] == ["f.yaml:6:11"]
    assert {event.task for event in verdict.log} == {"a"}


def test_real_time_is_what_the_clocks_of_the_machine_say(world: World) -> None:
    driver: Driver = world
    world.now = time.time() - 1_700_000_000.0
    began = time.monotonic()
    scenario = story(
        """\
        tasks: {a: {}}
        steps: [{wait: 10ms}, {launch: a, as: run}]
        expect: {eventually: [{within: 9s, of: run, status: SUCCESS}]}
        """
    )

    verdict = run(scenario, driver, clock=REAL_TIME)

    assert verdict.passed
    assert 0.01 <= time.monotonic() - began < 5
