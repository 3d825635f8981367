"""Workflows of a story, and how its contract starts them, waits for them and reads what was told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from pytest_taskservice.drivers.base import Capability, StoryDriver, WorkflowControl
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.model import Workflow, WorkflowStep
from taskservice.errors import WorkflowError

if TYPE_CHECKING:
    from pytest_taskservice.history import Event

app = Celery("flows", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")

MARK = Mark(path="story.scenario.yaml", line=1, column=1)
ASK = WorkflowStep(kind="ask", text="approve")


def flow(name: str, *steps: WorkflowStep, call: str | None = None) -> Workflow:
    return Workflow(name=name, mark=MARK, steps=steps, call=call)


def run_for(seconds: float) -> WorkflowStep:
    return WorkflowStep(kind="run", seconds=seconds)


FLOWS = [
    flow("approval", ASK),
    flow("quick", run_for(0.01), WorkflowStep(kind="return", value={"done": True})),
    flow("telling", WorkflowStep(kind="emit", text="progress", value={"percent": 50}), ASK),
    flow("failing", run_for(0.01), WorkflowStep(kind="fail", text="no stock")),
    flow("twice", ASK, WorkflowStep(kind="ask", text="really?")),
    flow("silent", WorkflowStep(kind="emit", value={"a": 1})),
    flow("slow", run_for(3.0)),
    flow("slower", run_for(40.0)),
    flow("chatty", *[WorkflowStep(kind="emit", value={"n": n}) for n in range(3)], run_for(1.0)),
    flow("refund", call="tests.contract.story_flows.refund"),
    flow("refund_async", call="contract.refund_async"),
    flow("patient", call="tests.contract.story_flows.patient"),
]
SHORT = flow("short", WorkflowStep(kind="ask", text="quick!", seconds=1.0))


def start(control: WorkflowControl, name: str, *args: Any, **kwargs: Any) -> str:
    return control.start(name, args, kwargs)


def has_virtual_time(driver: StoryDriver) -> bool:
    return driver.cannot(Capability.CLOCK) is None


def until(driver: StoryDriver, ready: Callable[[], bool], what: str, *, within: float = 20.0) -> None:
    """Let time pass until ``ready``: the world's own, or a little real time."""
    virtual = has_virtual_time(driver)
    clock: Callable[[], float] = driver.clock().monotonic if virtual else time.monotonic
    end = clock() + within
    while not ready():
        assert clock() < end, f"{what}: not within {within:g} s"
        if virtual:
            driver.clock().advance(seconds=0.02)
        else:
            threading.Event().wait(0.01)


def status(control: WorkflowControl, run: str) -> str:
    outcome = control.outcome(run)
    return "" if outcome is None else outcome.status


def await_status(
    driver: StoryDriver, control: WorkflowControl, run: str, wanted: str, **options: Any
) -> None:
    until(driver, lambda: status(control, run) == wanted, f"{run} to be {wanted}", **options)


def history(driver: StoryDriver, run: str) -> list[Event]:
    return list(driver.log().of(run))


def await_history(driver: StoryDriver, run: str, count: int) -> list[Event]:
    until(driver, lambda: len(history(driver, run)) >= count, f"{count} events in the history")
    return history(driver, run)


def passed(events: list[Event]) -> list[str]:
    return [str(event.detail["status"]) for event in events if event.kind is EventKind.CHANGED]


def code_of(act: Callable[[], object]) -> str:
    try:
        act()
    except WorkflowError as error:
        return error.code
    return ""


def skip_without_time(driver: StoryDriver) -> None:
    if driver.name == "celery-eager":
        pytest.skip("eager mode sweeps nothing: no deadline passes")
