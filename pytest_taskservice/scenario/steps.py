"""Reading ``steps`` and ``finally`` of a document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import Launch, Revoke, Step, Wait
from pytest_taskservice.scenario.nodes import Items, Node, Scalar, Table, describe, wrong
from pytest_taskservice.scenario.story import moments
from pytest_taskservice.scenario.words import format_duration, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_taskservice.scenario.model import Config, Task

__all__ = ["read_steps"]

_INSTANT = ("at", "after")
_ACTIONS = {
    "launch": (*_INSTANT, "launch", "as", "count", "countdown", "expires", "args", "kwargs"),
    "wait": (*_INSTANT, "wait", "within"),
    "revoke": (*_INSTANT, "revoke"),
}
_LATER_ACTIONS = {
    "start": "workflows",
    "input": "workflows",
    "continue": "workflows",
    "stop": "workflows",
    "advance": "moved time",
    "inject": "faults",
    "heal": "faults",
}


def read_steps(
    node: Node,
    tasks: Mapping[str, Task],
    config: Config,
    *,
    what: str = "steps",
    captured: Iterable[str] = (),
) -> tuple[Step, ...]:
    """Return the steps in order; ``captured`` names the runs of earlier steps.

    A ``finally`` (the ``what`` that has no instants since the start) refuses ``at``.
    """
    seen = set(captured)
    steps: list[Step] = []
    for item in fields.items(node, what):
        table = fields.table(item, "a step")
        if what == "finally" and (entry := table.entries.get("at")):
            raise wrong(entry.key.mark, "found 'at' in finally, whose start nobody knows; allowed: after")
        steps.append(_step(table, tasks, seen))
    _check_order(steps, tasks, config)
    return tuple(steps)


def _step(table: Table, tasks: Mapping[str, Task], seen: set[str]) -> Step:
    actions = [key for key in table.entries if key in _ACTIONS]
    if len(actions) != 1:
        fields.known_keys(table, "a step", tuple(_all_keys()), _LATER_ACTIONS)
        found = f"found {' and '.join(actions)} in one step" if actions else "a step does nothing"
        raise wrong(table.mark, f"{found}; a step does one of: {', '.join(_ACTIONS)}")

    action = actions[0]
    fields.known_keys(table, f"a {action} step", _ACTIONS[action], _LATER_ACTIONS)
    when = _when(table)
    node = table.entries[action].value
    match action:
        case "launch":
            return _launch(table, node, when, tasks, seen)
        case "wait":
            return _wait(table, node, when, seen)
    return Revoke(mark=table.mark, name=_captured(node, "revoke", seen)[0], **when)


def _all_keys() -> Iterable[str]:
    return dict.fromkeys(key for keys in _ACTIONS.values() for key in keys)


def _when(table: Table) -> dict[str, float]:
    if {"at", "after"} <= table.entries.keys():
        mark = table.entries["after"].key.mark
        raise wrong(mark, "found at and after in one step; a step has one of the two")

    return {key: fields.duration(node, key) for key in _INSTANT if (node := table.get(key)) is not None}


def _launch(
    table: Table, node: Node, when: Mapping[str, Any], tasks: Mapping[str, Task], seen: set[str]
) -> Launch:
    task = tasks[fields.word(node, "task", tuple(tasks))]
    said: dict[str, Any] = {**_arguments(table, task), **when}
    if (count := table.get("count")) is not None:
        said["count"] = fields.integer(count, "count", 1, 10_000)
    for key in ("countdown", "expires"):
        if (given := table.get(key)) is not None:
            said[key] = fields.some_time(given, key)
    if (given := table.get("as")) is not None:
        said["name"] = fields.name(given, "as")
        if said["name"] in seen:
            raise wrong(given.mark, f"found the run name {said['name']!r} again; names are unique")
        seen.add(said["name"])
    return Launch(mark=table.mark, task=task.name, **said)


def _arguments(table: Table, task: Task) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key in ("args", "kwargs"):
        entry = table.entries.get(key)
        if entry is None:
            continue

        if task.call is None:
            raise wrong(
                entry.key.mark,
                f"found {key} for {task.name!r}, a synthetic task; only a task with call takes any",
            )
        if key == "kwargs":
            said[key] = fields.plain(fields.table(entry.value, key))
        elif isinstance(entry.value, Items):
            said[key] = tuple(fields.plain(entry.value))
        else:
            raise wrong(entry.value.mark, f"found {describe(entry.value)}; args is a list")
    return said


def _wait(table: Table, node: Node, when: Mapping[str, Any], seen: set[str]) -> Wait:
    within = table.entries.get("within")
    digit = isinstance(node, Scalar) and re.match(r"[-+.\d]|None", str(node.value))
    if digit:
        if within:
            raise wrong(within.key.mark, "found within beside a duration; it bounds a wait for runs")
        return Wait(mark=table.mark, duration=fields.duration(node, "wait"), **when)

    bound = {} if within is None else {"within": fields.some_time(within.value, "within")}
    return Wait(mark=table.mark, runs=_captured(node, "wait", seen), **bound, **when)


def _captured(node: Node, what: str, seen: set[str]) -> tuple[str, ...]:
    """Return run names, all of them captured before."""
    if what == "revoke":
        fields.name(node, what)
    found = fields.names(node, what)
    for name in found:
        if name not in seen:
            message = unknown("run", name, sorted(seen), where="(captured by no as: before this)")
            raise wrong(node.mark, message)
    return found


def _check_order(steps: list[Step], tasks: Mapping[str, Task], config: Config) -> None:
    """Raise at a step whose instant has passed before the step above it is over."""
    now = 0.0
    for moment in moments(tuple(steps), tasks, config):
        at = moment.step.at
        if at is not None and at < now:
            raise wrong(
                moment.step.mark,
                f"found at: {format_duration(at)} behind a step that is not over before "
                f"{format_duration(now)}; steps stand in the order of their instants",
            )
        now = moment.ends
