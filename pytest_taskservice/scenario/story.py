"""A story's own arithmetic of time: the earliest instants of its steps and ends of its runs.

Lower bounds only, from what the file says: a world adds its own slowness. A task of the app is
taken to need no time, since nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_taskservice.scenario.acts import Launch, Revoke, Step, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_taskservice.scenario.behaviour import Behaviour
    from pytest_taskservice.scenario.model import Config, Scenario, Task

__all__ = ["Moment", "behaviour_length", "moments", "story_length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One step: when it begins and ends at the earliest, and when the run it launches is over."""

    step: Step
    begins: float
    ends: float
    run_over: float


def moments(steps: tuple[Step, ...], tasks: Mapping[str, Task], config: Config) -> Iterator[Moment]:
    """Yield the earliest instants of each step, in order."""
    now = 0.0
    over: dict[str, float] = {}
    for step in steps:
        begins = now + step.after if step.at is None else max(now, step.at)
        now = run_over = begins
        match step:
            case Launch():
                run_over = begins + _run_length(step, tasks[step.task], config)
                if step.name is not None:
                    over[step.name] = run_over
            case Wait(duration=float(duration)):
                now += duration
            case Wait():
                now = max(now, *(over.get(name, now) for name in step.runs))
            case Revoke():
                over[step.name] = min(over.get(step.name, now), now)
        yield Moment(step=step, begins=begins, ends=now, run_over=run_over)


def story_length(scenario: Scenario) -> float:
    """Return how many seconds a world in real time needs at least, until every run is over."""
    end = 0.0
    over: dict[str, float] = {}
    for moment in moments(scenario.steps, scenario.tasks, scenario.config):
        end = max(end, moment.ends)
        match moment.step:
            case Launch(name=str(name)):
                over[name] = moment.run_over
            case Revoke(name=name):
                over[name] = moment.begins
            case _:
                end = max(end, moment.run_over)
    return max(end, *over.values(), 0.0)


def behaviour_length(behaviour: Behaviour, config: Config) -> float:
    """Return the seconds from the first attempt's start to the last one's end."""
    limits = [config.task_time_limit]
    if not behaviour.ignores_soft_limit:
        limits.append(config.task_soft_time_limit)
    bound = min((limit for limit in limits if limit is not None), default=None)
    if bound is not None and bound <= behaviour.runs_for:
        return bound

    length, attempt = behaviour.runs_for, 1
    while behaviour.failure(attempt) is not None:
        delay = behaviour.retry_delay(attempt)
        if delay is None:
            break
        length += delay + behaviour.runs_for
        attempt += 1
    return length


def _run_length(step: Launch, task: Task, config: Config) -> float:
    start = step.countdown or 0.0
    # A run that expires first never starts.
    if step.expires is not None and step.expires <= start:
        return step.expires
    return start + (behaviour_length(task.behaviour, config) if task.behaviour else 0.0)
