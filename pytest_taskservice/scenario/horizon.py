"""How long a story has to go on after its last step, for what is expected of it to be seen.

Runs of tasks end when they do, and settling waits for them. All else is seen only by whoever is there at
the instant: a workflow run that waits for its user, the beat, the keys of a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario.acts import Follow, Inject, Launch, Start, Step, Together
from pytest_taskservice.scenario.model import Expectation, Property
from pytest_taskservice.scenario.story import moments, run_length, story_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.model import Scenario

__all__ = ["firm_horizon", "longest", "looks", "open_claims", "real_length"]


def firm_horizon(scenario: Scenario) -> float:
    """Return the last instant that the story has to be played to, whatever has happened before."""
    instants = [
        claim.instant
        for claim in _of_the_living(scenario)
        if claim.instant is not None and (claim.property is Property.AT or "runs" in claim.wanted)
    ]
    until = [] if scenario.faults is None else [scenario.faults.until]
    return max([*instants, *until, *looks(scenario), *_broken_until(scenario)], default=0.0)


def looks(scenario: Scenario) -> list[float]:
    """Return the instants at which somebody has to look how many keys are stored."""
    return sorted(
        {
            claim.instant
            for claim in scenario.expect
            if claim.instant is not None and "stored_keys" in claim.wanted
        }
    )


def open_claims(scenario: Scenario) -> list[Expectation]:
    """Return what may come true after the last step, without any run of a task."""
    return [claim for claim in _of_the_living(scenario) if claim.property is Property.EVENTUALLY]


def real_length(scenario: Scenario) -> float:
    """Return how many seconds a world in real time needs for the story at least."""
    return max(story_length(scenario), firm_horizon(scenario))


def longest(scenario: Scenario, *, redelivery: float) -> float:
    """Return how many seconds its runs take at the most, one after the other.

    ``redelivery`` is when a broker gives a message to somebody else, where the story does not say.
    """
    parts: dict[str, Any] = {"canvases": scenario.canvases, "workflows": scenario.workflows}
    steps = list(moments(scenario.steps, scenario.tasks, scenario.config, **parts))
    one_by_one = sum(
        step.count * run_length(step, scenario.tasks, scenario.config, **parts)
        for step in _each(scenario.steps)
        if isinstance(step, Launch | Start)
    )
    length = max(story_length(scenario), max((step.begins for step in steps), default=0.0) + one_by_one)
    is_hurt = scenario.faults is not None or any(isinstance(step, Inject) for step in scenario.steps)
    options = scenario.config.celery.get("broker_transport_options") or {}
    visibility = float(options.get("visibility_timeout") or redelivery)
    # What is not over by then is given to somebody else without any fault, and begins anew.
    is_doubled = 0 < visibility < length
    return 2 * length + visibility if is_hurt or is_doubled else length


def _broken_until(scenario: Scenario) -> Iterator[float]:
    """Yield the instants up to which what was broken has to stay so."""
    parts: dict[str, Any] = {"canvases": scenario.canvases, "workflows": scenario.workflows}
    broken = [
        (moment.begins, moment.step.fault.lasts or 0.0)
        for moment in moments(scenario.steps, scenario.tasks, scenario.config, **parts)
        if isinstance(moment.step, Inject)
    ]
    yield from (begins + lasts for begins, lasts in broken)
    if broken:
        # All faults are healed then, which these are not meant to see.
        for claim in scenario.expect:
            if claim.property is Property.AT and claim.instant is not None:
                yield claim.instant


def _of_the_living(scenario: Scenario) -> Iterator[Expectation]:
    """Yield what is expected of anything but the runs of tasks and canvases, and the answers to commands."""
    alive = {"workers", *scenario.beat}
    for step in _each(scenario.steps):
        if isinstance(step, Start | Follow) and step.name is not None:
            alive.add(step.name)
    return (claim for claim in scenario.expect if claim.of in alive)


def _each(steps: tuple[Step, ...]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Together):
            yield from step.steps
        else:
            yield step
