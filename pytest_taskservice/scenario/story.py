"""A story's own arithmetic of time: the earliest instants of its steps and ends of its runs.

Lower bounds only, from what the file says: a world adds its own slowness. A task or workflow of the app
is taken to need no time, since nobody knows, and a workflow to be over when it first asks something.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario.acts import Advance, Launch, Revoke, Start, Step, Stop, Together, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_taskservice.scenario.behaviour import Behaviour, Retry
    from pytest_taskservice.scenario.model import Canvas, Config, Scenario, Task, Workflow

__all__ = [
    "Moment",
    "attempts",
    "behaviour_length",
    "commands_of",
    "may_fail",
    "moments",
    "run_length",
    "story_length",
    "work_until_ask",
]

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One step: when it begins and ends at the earliest, and when the runs it launches are over."""

    step: Step
    begins: float
    ends: float
    run_over: float


def moments(
    steps: tuple[Step, ...],
    tasks: Mapping[str, Task],
    config: Config,
    *,
    canvases: Mapping[str, Canvas] = _NONE,
    workflows: Mapping[str, Workflow] = _NONE,
) -> Iterator[Moment]:
    """Yield the earliest instants of each step, in order."""
    now = 0.0
    over: dict[str, float] = {}
    for step in steps:
        begins = now + step.after if step.at is None else max(now, step.at)
        now = run_over = begins
        for command in commands_of(step):
            match command:
                case Launch() | Start():
                    length = run_length(command, tasks, config, canvases=canvases, workflows=workflows)
                    run_over = max(run_over, begins + length)
                    if command.name is not None:
                        over[command.name] = begins + length
                case Revoke(name=name) | Stop(run=name):
                    over[name] = min(over.get(name, now), now)
                case Advance(duration=duration) | Wait(duration=float(duration)):
                    now += duration
                case Wait():
                    now = max(now, *(over.get(name, now) for name in command.runs))
        yield Moment(step=step, begins=begins, ends=now, run_over=run_over)


def commands_of(step: Step) -> tuple[Step, ...]:
    """Return what ``step`` does: itself, or all that it does at once."""
    return step.steps if isinstance(step, Together) else (step,)


def story_length(scenario: Scenario) -> float:
    """Return how many seconds a world in real time needs at least, until every run is over."""
    parts: dict[str, Any] = {"canvases": scenario.canvases, "workflows": scenario.workflows}
    end = 0.0
    over: dict[str, float] = {}
    for moment in moments(scenario.steps, scenario.tasks, scenario.config, **parts):
        end = max(end, moment.ends)
        for command in commands_of(moment.step):
            match command:
                case Launch() | Start():
                    length = run_length(command, scenario.tasks, scenario.config, **parts)
                    if command.name is None:
                        end = max(end, moment.begins + length)
                    else:
                        over[command.name] = moment.begins + length
                case Revoke(name=name) | Stop(run=name):
                    over[name] = moment.begins
    return max(end, *over.values(), 0.0)


def behaviour_length(behaviour: Behaviour, config: Config) -> float:
    """Return the seconds from the first attempt's start to the last one's end."""
    bound = _limit_met(behaviour, config)
    if bound is not None:
        return bound

    waits = 0.0 if behaviour.retry is None else _waits(behaviour.retry, behaviour.attempts)
    return waits + behaviour.runs_for * behaviour.attempts


@lru_cache(maxsize=1024)
def _waits(retry: Retry, attempts: int) -> float:
    """Return the seconds between attempts, which every step of a story may ask for."""
    return sum(retry.delay_after(attempt) or 0.0 for attempt in range(1, attempts))


def attempts(behaviour: Behaviour, config: Config) -> int:
    """Return how often a run is attempted."""
    return behaviour.attempts if _limit_met(behaviour, config) is None else 1


def _limit_met(behaviour: Behaviour, config: Config) -> float | None:
    """Return the time limit that ends each attempt; no retry follows it."""
    limits = [config.task_time_limit]
    if not behaviour.ignores_soft_limit:
        limits.append(config.task_soft_time_limit)
    bound = min((limit for limit in limits if limit is not None), default=None)
    return bound if bound is not None and bound <= behaviour.runs_for else None


def work_until_ask(workflow: Workflow) -> float:
    """Return the seconds of work before a workflow first asks something, or ends."""
    seconds = 0.0
    for step in workflow.steps:
        if step.kind in {"ask", "fail", "return"}:
            break
        seconds += step.seconds
    return seconds


def run_length(
    step: Launch | Start,
    tasks: Mapping[str, Task],
    config: Config,
    *,
    canvases: Mapping[str, Canvas] = _NONE,
    workflows: Mapping[str, Workflow] = _NONE,
) -> float:
    """Return the seconds from ``step`` to the end of what it launches."""
    if isinstance(step, Start):
        return work_until_ask(workflows[step.workflow])

    start = step.countdown or 0.0
    # A run that expires first never starts.
    if step.expires is not None and step.expires <= start:
        return step.expires

    canvas = canvases.get(step.task)
    if canvas is None:
        return start + _task_length(tasks[step.task], config)

    return start + _canvas_length(canvas, tasks, config)


def may_fail(task: Task, config: Config) -> bool:
    """Tell whether ``task`` ends in a failure, for all that the file says."""
    behaviour = task.behaviour
    if behaviour is None:
        return True

    last = behaviour.retry.max_attempts if behaviour.retry else 1
    return _limit_met(behaviour, config) is not None or behaviour.failure(last) is not None


# By a canvas: what it was computed from, and its length. Each launch of a canvas asks for it several times.
_canvases: dict[int, tuple[Canvas, Mapping[str, Task], Config, float]] = {}
_MOST_KEPT = 1024


def _canvas_length(canvas: Canvas, tasks: Mapping[str, Task], config: Config) -> float:
    known = _canvases.get(id(canvas))
    if known is not None and known[0] is canvas and known[1] is tasks and known[2] is config:
        return known[3]
    if len(_canvases) >= _MOST_KEPT:
        _canvases.clear()
    length = _length_of_canvas(canvas, tasks, config)
    _canvases[id(canvas)] = canvas, tasks, config, length
    return length


def _length_of_canvas(canvas: Canvas, tasks: Mapping[str, Task], config: Config) -> float:
    members = [tasks[name] for name in canvas.members]
    if canvas.kind != "chain":
        length = max(_task_length(task, config) for task in members)
        # Without the whole header its body does not run.
        if canvas.body is None or any(may_fail(task, config) for task in members):
            return length
        return length + _task_length(tasks[canvas.body], config)

    length = 0.0
    for task in members:
        length += _task_length(task, config)
        if may_fail(task, config):
            break
    return length


def _task_length(task: Task, config: Config) -> float:
    return behaviour_length(task.behaviour, config) if task.behaviour else 0.0
