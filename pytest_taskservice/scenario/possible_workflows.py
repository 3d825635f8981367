"""Refusing expectations that no run of a synthetic workflow could meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Workflow
    from pytest_taskservice.scenario.possible import Told
    from pytest_taskservice.scenario.targets import Target

__all__ = ["check_workflow"]

_OF_THE_APP = ("max_steps", "changed", "unknown_workflow")


def check_workflow(told: Told, target: Target) -> None:
    """Raise at what ``told`` wants of a run that its steps do not lead to."""
    workflow = target.workflow
    assert workflow is not None
    asks = sum(step.kind == "ask" for step in workflow.steps)
    if told.wanted.get("status") == "SUCCESS" or "result" in told.wanted:
        _check_success(told, target, workflow, asks)
    _check_asking(told, target, workflow, asks)
    _check_reason(told, target, workflow, asks)


def _check_success(told: Told, target: Target, workflow: Workflow, asks: int) -> None:
    key = "status" if "status" in told.wanted else "result"
    name = workflow.name
    if len(target.answers) < asks:
        told.refuse(
            key,
            f"found SUCCESS, but {name!r} asks {_times(asks)} and {target.name!r} is answered "
            f"{_times(len(target.answers))}; no run could meet it",
        )
    over = _earliest_end(target, workflow)
    if told.instant is not None and told.instant < over:
        told.refuse(
            told.bound,
            f"found {told.bound}: {format_duration(told.instant)} for SUCCESS, but the run takes until "
            f"{format_duration(over)} at least; no run could meet it",
        )


def _earliest_end(target: Target, workflow: Workflow) -> float:
    now, answers = target.begins, iter(sorted(target.answers))
    for step in workflow.steps:
        if step.kind == "ask":
            now = max(now, next(answers))
        elif step.kind == "run":
            now += step.seconds
    return now


def _check_asking(told: Told, target: Target, workflow: Workflow, asks: int) -> None:
    status = told.wanted.get("status")
    if status in ("INPUT", "INPUT_OVER") and not asks:
        told.refuse("status", f"found {status}, but {workflow.name!r} asks nothing; no run could meet it")

    if status == "INPUT_OVER" and not target.answers:
        told.refuse("status", f"found INPUT_OVER, but nobody answers {target.name!r}; no run could meet it")
    # Its first question is where ``over`` ends.
    if status == "INPUT" and told.instant is not None and told.instant < target.over:
        told.refuse(
            told.bound,
            f"found {told.bound}: {format_duration(told.instant)} for INPUT, but {workflow.name!r} works "
            f"until {format_duration(target.over)} before it asks; no run could meet it",
        )


def _check_reason(told: Told, target: Target, workflow: Workflow, asks: int) -> None:
    reason = told.wanted.get("reason")
    if reason == "input_timeout" and not asks:
        told.refuse("reason", f"found {reason}, but {workflow.name!r} asks nothing; no run could meet it")
    if reason == "stopped" and not target.stops:
        told.refuse("reason", f"found stopped, but nothing stops {target.name!r}; no run could meet it")
    if reason in _OF_THE_APP:
        told.refuse("reason", f"found {reason}; only a workflow with call can end so")

    fails = any(step.kind == "fail" for step in workflow.steps)
    for key in ("reason", "error"):
        if key in told.wanted and (key == "error" or reason == "error") and not fails:
            told.refuse(key, f"found error, but {workflow.name!r} does not fail; no run could meet it")


def _times(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{number} times")
