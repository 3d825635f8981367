"""A scenario's steps as load: what many users of `taskservice load --scenario` play at once.

Launches of tasks and waits are load. What makes a scenario a test is not: expectations, and steps that do
something to the world; nor are canvases and workflows. Each is named in `Story.ignored`.

A worker that imports this module knows the synthetic task.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from celery import signals

from pytest_taskservice.drivers.synthetic import register
from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.acts import Advance, Launch, Step, Wait
from pytest_taskservice.scenario.behaviour import SYNTHETIC
from pytest_taskservice.scenario.load import load
from taskservice.load.calls import Call, Move, Story

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_taskservice.scenario.model import Scenario

__all__ = ["read_stories"]


@signals.worker_init.connect(weak=False)
def _register(sender: Any = None, **_: object) -> None:
    register(sender.app)


def read_stories(path: Path) -> list[Story]:
    """Return a story for each scenario of a file; `ScenarioError` for a mistake in it."""
    return [_story(scenario) for scenario in load(path)]


def _story(scenario: Scenario) -> Story:
    moves = tuple(_moves(scenario))
    if not any(move.call for move in moves):
        raise ScenarioError(
            f"{scenario.mark}: found no launch in the steps of {scenario.title!r}: nothing to send"
        )

    called = sorted({task.call for task in scenario.tasks.values() if task.call})
    return Story(
        name=scenario.title,
        moves=moves,
        imports=(__name__, *(name.rpartition(".")[0] for name in called)),
        ignored=tuple(_ignored(scenario)),
    )


def _moves(scenario: Scenario) -> Iterator[Move]:
    for step in scenario.steps:
        match step:
            case Launch() if step.task in scenario.tasks:
                call = _call(scenario, step)
                yield Move(at=step.at, after=step.after, call=call, count=step.count, name=step.name or "")
            case Wait(duration=float(duration)) | Advance(duration=duration):
                yield Move(at=step.at, after=step.after, pause=duration)
            case Wait():
                yield Move(at=step.at, after=step.after, awaits=step.runs)
            case _:
                # Its time passes, as in the test.
                yield Move(at=step.at, after=step.after)


def _call(scenario: Scenario, step: Launch) -> Call:
    task, config = scenario.tasks[step.task], scenario.config
    options = {
        "countdown": step.countdown,
        "expires": step.expires,
        "queue": task.queue,
        "priority": task.priority if step.priority is None else step.priority,
        "soft_time_limit": config.task_soft_time_limit,
        "time_limit": config.task_time_limit,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if task.call is not None:
        module, _, attribute = task.call.rpartition(".")
        return Call(
            name=f"{module}:{attribute}", how="celery", args=step.args, kwargs=step.kwargs, options=given
        )

    assert task.behaviour is not None
    return Call(name=SYNTHETIC, how="celery", args=(task.behaviour.to_json(),), options=given)


def _ignored(scenario: Scenario) -> Iterator[str]:
    others = Counter(_word(step) for step in scenario.steps if not _is_load(scenario, step))
    for name, count in others.items():
        yield f"ignored {count} {name} step{'s' if count > 1 else ''}: it is no load"
    if scenario.expect:
        count = len(scenario.expect)
        yield f"ignored {count} expectation{'s' if count > 1 else ''}: gates judge a load run"
    if scenario.cleanup:
        yield "ignored the steps under finally"


def _is_load(scenario: Scenario, step: Step) -> bool:
    if isinstance(step, Launch):
        return step.task in scenario.tasks
    return isinstance(step, Wait | Advance)


def _word(step: Step) -> str:
    return "canvas" if isinstance(step, Launch) else type(step).__name__.lower()
