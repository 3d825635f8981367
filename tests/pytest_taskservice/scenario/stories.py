"""Stories built without a file, and a simulation that plays them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.synthetic import register
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.behaviour import Behaviour
from pytest_taskservice.scenario.engine import REAL_TIME, Clock, Verdict, run
from pytest_taskservice.scenario.model import Expectation, Property, Scenario, Task
from pytest_taskservice.scenario.stage import stage_of

if TYPE_CHECKING:
    from celery import Celery

MARK = Mark(path="f.yaml", line=3, column=5)


def task(name: str, *, queue: str | None = None, call: str | None = None, **behaviour: Any) -> Task:
    """A synthetic task, or one of the app."""
    plays = None if call else Behaviour(**behaviour)
    return Task(name=name, mark=MARK, behaviour=plays, queue=queue, call=call)


def tasks(*found: Task) -> dict[str, Task]:
    """Tasks by their names."""
    return {each.name: each for each in found}


def claim(kind: str, of: str, instant: float | None = None, **wanted: Any) -> Expectation:
    """An expectation."""
    return Expectation(mark=MARK, property=Property(kind), of=of, wanted=wanted, instant=instant)


def story(**parts: Any) -> Scenario:
    """A scenario that is played in every world."""
    return Scenario(mark=MARK, name="x", **parts)


def play(scenario: Scenario, driver: Any, app: Celery, *, seed: int = 0) -> Verdict:
    """Play a scenario as its item does."""
    register(app)
    driver.seed = seed
    driver.set_stage(stage_of(scenario, seed=seed))
    driver.begin(app, {})
    try:
        return run(scenario, driver, clock=_clock_of(driver), seed=seed)
    finally:
        driver.reset()


def told(verdict: Verdict) -> list[str]:
    """What was not as expected, a line each."""
    return [f"{found.run}: {found.expected}; got {found.got}" for found in verdict.mismatches]


def _clock_of(driver: Any) -> Clock:
    if driver.cannot("virtual time"):
        return REAL_TIME
    clock = driver.clock()
    return Clock(
        monotonic=clock.monotonic,
        wall=lambda: clock.now().timestamp(),
        pause=lambda seconds: clock.advance(seconds=max(seconds, 1e-6)),
    )
