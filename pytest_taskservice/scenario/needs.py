"""What a world must be able to show for a scenario to be played there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.drivers.base import Capability
from pytest_taskservice.scenario.acts import Launch, Revoke
from pytest_taskservice.scenario.story import moments
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.model import Scenario, Task

__all__ = ["needs"]


def needs(scenario: Scenario) -> list[tuple[Capability, str]]:
    """Return each needed capability once, with the first reason for it."""
    found: dict[Capability, str] = {}
    for capability, why in _demands(scenario):
        found.setdefault(capability, why)
    return list(found.items())


def _demands(scenario: Scenario) -> Iterator[tuple[Capability, str]]:
    if scenario.config.task_soft_time_limit is not None:
        yield Capability.TIME_LIMITS, "config sets task_soft_time_limit"
    if scenario.config.task_time_limit is not None:
        yield Capability.TIME_LIMITS, "config sets task_time_limit"
    for step in (*scenario.steps, *scenario.cleanup):
        where = f"the step in line {step.mark.line}"
        match step:
            case Launch(task=name):
                yield from _of_launch(step, scenario.tasks[name], where)
            case Revoke(name=name):
                yield Capability.REVOKE, f"{where} revokes {name!r}"
    yield from _overlaps(scenario)


def _of_launch(step: Launch, task: Task, where: str) -> Iterator[tuple[Capability, str]]:
    if step.countdown is not None:
        yield Capability.ETA, f"{where} has a countdown of {format_duration(step.countdown)}"
    if step.expires is not None:
        yield Capability.EXPIRES, f"{where} expires after {format_duration(step.expires)}"
    if task.priority is not None:
        yield Capability.PRIORITIES, f"task {task.name!r} has priority {task.priority}"
    retry = task.behaviour.retry if task.behaviour else None
    if retry and retry.delay > 0:
        why = f"task {task.name!r} waits {format_duration(retry.delay)} before it is tried again"
        yield Capability.BACKOFF, why


def _overlaps(scenario: Scenario) -> Iterator[tuple[Capability, str]]:
    """Yield where a step's own instant lies within the life of an earlier run.

    Only then must the story go on while a run is under way: runs that are launched together may as
    well run one after another.
    """
    since, busy, task = 0.0, 0.0, ""
    for moment in moments(scenario.steps, scenario.tasks, scenario.config):
        if since < moment.begins < busy:
            where = f"the step in line {moment.step.mark.line}"
            yield Capability.CONCURRENCY, f"{where} happens while {task!r} is under way"
        if isinstance(moment.step, Launch) and moment.run_over > busy:
            since, busy, task = moment.begins, moment.run_over, moment.step.task
