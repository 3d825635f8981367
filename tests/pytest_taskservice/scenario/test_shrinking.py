"""The smallest story that still breaks the same rule."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

from pytest_taskservice.history import EventLog
from pytest_taskservice.scenario import acts
from pytest_taskservice.scenario.engine import Verdict
from pytest_taskservice.scenario.expectations import Mismatch
from pytest_taskservice.scenario.load import load_text
from pytest_taskservice.scenario.shrinking import Most, shrink_story
from pytest_taskservice.scenario.write import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.scenario.model import Scenario

STORY = dedent(
    """\
    schema: 1
    name: much happens
    tags: [busy]
    config: {task_time_limit: 40s}
    tasks:
      charge: {runs_for: 32s, returns: paid}
      mail: {runs_for: 1s}
    steps:
      - {at: 0s, launch: mail, count: 6, as: mails}
      - {at: 10s, launch: charge, as: payment}
      - {at: 11s, launch: mail, as: receipt}
      - {at: 12s, revoke: receipt}
      - {at: 13s, wait: [mails, receipt], within: 20s}
    expect:
      eventually:
        - {within: 60s, of: payment, status: SUCCESS}
        - {within: 60s, of: mails, status: SUCCESS}
      never:
        - {of: receipt, status: FAILURE}
    finally:
      - {wait: payment}
    """
)
(SCENARIO,) = load_text(STORY, "story")
PAYMENT = SCENARIO.expect[0].mark


def verdict(*mismatches: Mismatch) -> Verdict:
    return Verdict(log=EventLog(), start=0.0, runs={}, outcomes={}, mismatches=mismatches)


def broken(got: str = "status FAILURE, at 42 s", invariant: str = "") -> Mismatch:
    return Mismatch(mark=PAYMENT, expected="status SUCCESS", got=got, run="payment", invariant=invariant)


def playing(fails: Callable[[Scenario], bool], seen: list[Scenario] | None = None) -> Callable[..., Verdict]:
    def again(scenario: Scenario, seed: int) -> Verdict:
        if seen is not None:
            seen.append(scenario)
        return verdict(broken()) if fails(scenario) else verdict()

    return again


def test_only_what_the_failure_needs_is_left() -> None:
    shrunk = shrink_story(SCENARIO, broken(), playing(lambda _: True), seed=7)

    assert write(shrunk.scenario) == dedent(
        """\
        schema: 1
        name: much happens
        backends: [celery-sim]
        tasks:
          charge: {}
        steps:
          - {launch: charge, as: payment}
        expect:
          eventually:
            - {within: 1s, of: payment, status: SUCCESS}
        """
    )
    assert shrunk.seed == 0
    assert str(shrunk) == f"shrunk in {shrunk.plays} plays to 1 of 5 steps"


def test_what_the_failure_does_need_stays() -> None:
    def fails(scenario: Scenario) -> bool:
        mails = sum(
            step.count for step in scenario.steps if isinstance(step, acts.Launch) and step.task == "mail"
        )
        return mails >= 3 and scenario.config.task_time_limit is not None

    shrunk = shrink_story(SCENARIO, broken(), playing(fails), seed=0)

    assert [step.count for step in shrunk.scenario.steps if isinstance(step, acts.Launch)] == [3, 1]
    assert shrunk.scenario.config.task_time_limit is not None


def test_a_story_that_needs_its_seed_keeps_it() -> None:
    def again(scenario: Scenario, seed: int) -> Verdict:
        return verdict(broken()) if seed == 7 else verdict()

    shrunk = shrink_story(SCENARIO, broken(), again, seed=7)

    assert (shrunk.seed, shrunk.scenario.seeds) == (7, (7,))


def test_another_failure_does_not_count() -> None:
    other = Mismatch(mark=SCENARIO.expect[1].mark, expected="x", got="y")

    def again(scenario: Scenario, seed: int) -> Verdict:
        return verdict(broken()) if len(scenario.steps) > 4 else verdict(other)

    shrunk = shrink_story(SCENARIO, broken(), again, seed=0)

    assert len(shrunk.scenario.steps) == 5


def test_an_invariant_is_the_same_wherever_it_breaks() -> None:
    seen: list[Scenario] = []

    def again(scenario: Scenario, seed: int) -> Verdict:
        seen.append(scenario)
        place = acts.Mark(path="elsewhere", line=1, column=1)
        return verdict(Mismatch(mark=place, expected="final is final", got="z", invariant="final is final"))

    shrunk = shrink_story(SCENARIO, broken(invariant="final is final"), again, seed=0)

    assert len(shrunk.scenario.steps) == 1
    assert all(scenario.expect for scenario in seen)


def test_no_time_is_shortened_until_something_else_is_found() -> None:
    def again(scenario: Scenario, seed: int) -> Verdict:
        long = scenario.expect[0].instant == 60
        return verdict(broken("status FAILURE, at 42 s" if long else "status PENDING, too late"))

    shrunk = shrink_story(SCENARIO, broken(), again, seed=0)

    assert shrunk.scenario.expect[0].instant == 60


def test_every_candidate_can_be_read_again() -> None:
    seen: list[Scenario] = []

    shrink_story(SCENARIO, broken(), playing(lambda scenario: len(scenario.steps) > 2, seen), seed=0)

    assert len(seen) > 10
    for scenario in seen:
        load_text(write(scenario), "candidate")


def test_what_does_not_come_again_is_not_shrunk() -> None:
    shrunk = shrink_story(SCENARIO, broken(), playing(lambda _: False), seed=3)

    assert (shrunk.replayed, shrunk.plays) == (False, 1)
    assert "the same seed did not bring the same again" in str(shrunk)


def test_the_search_is_bounded_by_plays_and_by_seconds() -> None:
    seen: list[Scenario] = []

    shrink_story(SCENARIO, broken(), playing(lambda _: True, seen), seed=0, most=Most(plays=3))
    assert len(seen) == 3

    shrink_story(SCENARIO, broken(), playing(lambda _: True, seen), seed=0, most=Most(seconds=0))
    assert len(seen) == 4
