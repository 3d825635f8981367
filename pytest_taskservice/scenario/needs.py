"""What a world must be able to show for a scenario to be played there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.drivers.base import Capability
from pytest_taskservice.scenario.acts import (
    CONNECTION_FAULTS,
    DELIVERY_FAULTS,
    Continue,
    FaultCall,
    Follow,
    Inject,
    Input,
    Launch,
    Revoke,
    Start,
    Step,
    Stop,
    Together,
)
from pytest_taskservice.scenario.story import commands_of, moments
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.model import Config, Scenario, Task

__all__ = ["needs"]

_Demand = tuple[Capability, str]


def needs(scenario: Scenario) -> list[_Demand]:
    """Return each needed capability once, with the first reason for it."""
    found: dict[Capability, str] = {}
    for capability, why in _demands(scenario):
        found.setdefault(capability, why)
    return list(found.items())


def _demands(scenario: Scenario) -> Iterator[_Demand]:
    yield from _of_config(scenario.config)
    if (workers := scenario.workers) is not None:
        yield Capability.WORKERS, f"workers asks for {workers.count} of {workers.concurrency} slots"
    for entry in scenario.beat.values():
        yield Capability.BEAT, f"beat launches {entry.task!r} in line {entry.mark.line}"
        yield from _of_task(scenario.tasks[entry.task])
    for step in (*scenario.steps, *scenario.cleanup):
        where = f"the step in line {step.mark.line}"
        if isinstance(step, Together):
            yield Capability.RACES, f"{where} does {len(step.steps)} things at once"
        for command in commands_of(step):
            yield from _of_step(command, scenario, where)
    if scenario.faults is not None:
        for fault in scenario.faults.kinds:
            yield from _of_fault(fault, f"faults in line {scenario.faults.mark.line}")
    yield from _of_claims(scenario)
    yield from _overlaps(scenario)


def _of_config(config: Config) -> Iterator[_Demand]:
    if config.task_soft_time_limit is not None:
        yield Capability.TIME_LIMITS, "config sets task_soft_time_limit"
    if config.task_time_limit is not None:
        yield Capability.TIME_LIMITS, "config sets task_time_limit"
    if config.start:
        yield Capability.CLOCK, f"config has the story begin at {config.start}"
    for name in config.celery:
        yield Capability.SETTINGS, f"config sets Celery's {name}"
    if config.broker == "amqp":
        yield Capability.AMQP, "config wants a broker of amqp"


def _of_step(step: Step, scenario: Scenario, where: str) -> Iterator[_Demand]:
    match step:
        case Launch():
            yield from _of_launch(step, scenario, where)
        case Revoke(name=name):
            yield Capability.REVOKE, f"{where} revokes {name!r}"
        case Start(workflow=name):
            yield Capability.WORKFLOWS, f"{where} starts the workflow {name!r}"
        case Input() | Continue() | Stop() | Follow():
            yield Capability.WORKFLOWS, f"{where} is about the workflow run {step.run!r}"
        case Inject(fault=fault):
            yield from _of_fault(fault, where)


def _of_launch(step: Launch, scenario: Scenario, where: str) -> Iterator[_Demand]:
    if step.countdown is not None:
        yield Capability.ETA, f"{where} has a countdown of {format_duration(step.countdown)}"
    if step.expires is not None:
        yield Capability.EXPIRES, f"{where} expires after {format_duration(step.expires)}"
    if step.priority is not None:
        yield Capability.PRIORITIES, f"{where} has priority {step.priority}"
    canvas = scenario.canvases.get(step.task)
    if canvas is None:
        yield from _of_task(scenario.tasks[step.task])
        return

    yield Capability.CANVAS, f"{where} launches the {canvas.kind} {canvas.name!r}"
    for name in (*canvas.members, *([canvas.body] if canvas.body else ())):
        yield from _of_task(scenario.tasks[name])


def _of_task(task: Task) -> Iterator[_Demand]:
    if task.priority is not None:
        yield Capability.PRIORITIES, f"task {task.name!r} has priority {task.priority}"
    retry = task.behaviour.retry if task.behaviour else None
    if retry and retry.delay > 0:
        why = f"task {task.name!r} waits {format_duration(retry.delay)} before it is tried again"
        yield Capability.BACKOFF, why


def _of_fault(fault: FaultCall, where: str) -> Iterator[_Demand]:
    capability = Capability.PROCESS_FAULTS
    if fault.kind in CONNECTION_FAULTS:
        capability = Capability.CONNECTION_FAULTS
    elif fault.kind in DELIVERY_FAULTS:
        capability = Capability.DELIVERY_FAULTS
    yield capability, f"{where} injects {fault.kind}"
    if fault.when:
        yield Capability.STRIKES, f"{where} strikes a run when it is {fault.when}"


def _of_claims(scenario: Scenario) -> Iterator[_Demand]:
    for claim in scenario.expect:
        where = f"the expectation in line {claim.mark.line}"
        if claim.of == "workers":
            yield Capability.WORKERS, f"{where} is about workers"
        if "deliveries" in claim.wanted:
            yield Capability.CELERY_MESSAGES, f"{where} counts deliveries"


def _overlaps(scenario: Scenario) -> Iterator[_Demand]:
    """Yield where a step's own instant lies within the life of an earlier run.

    Only then must the story go on while a run is under way: runs that are launched together may as
    well run one after another.
    """
    since, busy, task = 0.0, 0.0, ""
    for moment in moments(
        scenario.steps,
        scenario.tasks,
        scenario.config,
        canvases=scenario.canvases,
        workflows=scenario.workflows,
    ):
        if since < moment.begins < busy:
            where = f"the step in line {moment.step.mark.line}"
            yield Capability.CONCURRENCY, f"{where} happens while {task!r} is under way"
        if isinstance(moment.step, Launch) and moment.run_over > busy:
            since, busy, task = moment.begins, moment.run_over, moment.step.task
