"""From a scenario to what a driver is told: the calls of its tasks, and the stage they are played on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_taskservice.drivers.base import Stage, TaskCall
from pytest_taskservice.scenario.acts import Inject, Launch
from pytest_taskservice.scenario.behaviour import SYNTHETIC

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Canvas, Scenario, Task

__all__ = ["call_of", "calls_of_canvas", "stage_of"]


def stage_of(scenario: Scenario, *, seed: int = 0) -> Stage:
    """Return what ``scenario`` needs of its world before its first step."""
    kinds = {step.fault.kind for step in (*scenario.steps, *scenario.cleanup) if isinstance(step, Inject)}
    if scenario.faults is not None:
        kinds |= {fault.kind for fault in scenario.faults.kinds}
    launched = {entry.task for entry in scenario.beat.values()}
    return Stage(
        workers=scenario.workers,
        config=scenario.config,
        workflows=scenario.workflows,
        beat=scenario.beat,
        tasks={name: call_of(scenario.tasks[name], scenario) for name in launched},
        faults=frozenset(kinds),
        seed=seed,
    )


def call_of(task: Task, scenario: Scenario, step: Launch | None = None) -> TaskCall:
    """Return the call of ``task``, as ``step`` wants it."""
    config = scenario.config
    call = TaskCall(
        task=task.call or SYNTHETIC,
        args=(task.behaviour.to_json(),) if task.behaviour else (),
        label=task.name,
        queue=task.queue,
        priority=task.priority,
        soft_time_limit=config.task_soft_time_limit,
        time_limit=config.task_time_limit,
    )
    if step is None:
        return call
    return replace(
        call,
        args=call.args if task.behaviour else step.args,
        kwargs=step.kwargs,
        countdown=step.countdown,
        expires=step.expires,
        priority=task.priority if step.priority is None else step.priority,
    )


def calls_of_canvas(
    canvas: Canvas, scenario: Scenario, step: Launch
) -> tuple[tuple[TaskCall, ...], TaskCall | None]:
    """Return the calls of a canvas and of its body; what ``step`` says is for those that go first."""
    members = tuple(
        call_of(scenario.tasks[name], scenario, step if not number or canvas.kind != "chain" else None)
        for number, name in enumerate(canvas.members)
    )
    body = None if canvas.body is None else call_of(scenario.tasks[canvas.body], scenario)
    return members, body
