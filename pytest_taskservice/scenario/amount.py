"""Refusing stories that would be played for minutes: how many attempts at runs a document asks for.

Counted from what the file says, as ``story`` counts time: a task of the app is taken to end at its first
attempt. What a world adds, such as a message that is delivered twice, is left to its own budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario.acts import Launch, Start
from pytest_taskservice.scenario.horizon import real_length
from pytest_taskservice.scenario.limits import ATTEMPTED
from pytest_taskservice.scenario.nodes import wrong
from pytest_taskservice.scenario.story import attempts, commands_of
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.acts import Mark
    from pytest_taskservice.scenario.model import Entry, Scenario

__all__ = ["check_amount"]

_DAY = 86_400.0


def check_amount(scenario: Scenario) -> None:
    """Raise at what brings ``scenario`` over the number of attempts that one story plays."""
    most = ATTEMPTED[1]
    total = 0
    for mark, count, what in _parts(scenario):
        total += count
        if total > most:
            so_far = f", {total:,} with those before it" if total > count else ""
            raise wrong(
                mark, f"found {count:,} attempts at runs {what}{so_far}; a story plays {most:,} at most"
            )


def _parts(scenario: Scenario) -> Iterator[tuple[Mark, int, str]]:
    for step in scenario.steps:
        for command in commands_of(step):
            if isinstance(command, Launch):
                yield command.mark, command.count * _of_launch(scenario, command.task), "in this step"
            elif isinstance(command, Start):
                yield command.mark, command.count, "in this step"
    if not scenario.beat:
        return

    length = real_length(scenario)
    for name, entry in scenario.beat.items():
        count = int(length * _per_second(entry)) * _of_task(scenario, entry.task)
        yield entry.mark, count, f"of beat entry {name!r} in {format_duration(length)}"


def _of_launch(scenario: Scenario, name: str) -> int:
    canvas = scenario.canvases.get(name)
    if canvas is None:
        return _of_task(scenario, name)
    tasks = [*canvas.members, *([canvas.body] if canvas.body else [])]
    return sum(_of_task(scenario, task) for task in tasks)


def _of_task(scenario: Scenario, name: str) -> int:
    behaviour = scenario.tasks[name].behaviour
    return 1 if behaviour is None else attempts(behaviour, scenario.config)


def _per_second(entry: Entry) -> float:
    """Return how often the beat fires, on average over a year."""
    if entry.every is not None:
        return 1 / entry.every

    from taskservice.schedules.cron import celery_crontab

    cron: Any = celery_crontab(entry.cron or "")
    a_day = len(cron.minute) * len(cron.hour)
    days = len(cron.day_of_week) / 7 * len(cron.day_of_month) / 31 * len(cron.month_of_year) / 12
    return a_day * days / _DAY
