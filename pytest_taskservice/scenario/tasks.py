"""Reading ``config`` and ``tasks`` of a document."""

from __future__ import annotations

import re
from typing import Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.behaviour import EXCEPTIONS, Behaviour, Retry
from pytest_taskservice.scenario.model import Config, Task
from pytest_taskservice.scenario.nodes import Entry, Node, Table, describe, wrong
from pytest_taskservice.scenario.words import nearest, unknown

__all__ = ["read_config", "read_tasks"]

_LATER_CONFIG = {
    "busy_after": "workflows",
    "input_timeout": "workflows",
    "stale_after": "workflows",
    "data_ttl": "workflows",
}
_BEHAVIOUR = ("runs_for", "returns", "fails_with", "fails_times", "ignores_soft_limit", "retry")
_DELIVERY = ("queue", "priority")
_ENDINGS = ("Error", "Exception", "Exit", "Interrupt")
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def read_config(node: Node | None) -> Config:
    """Return the settings sent along with every launch."""
    if node is None:
        return Config()

    keys = ("task_soft_time_limit", "task_time_limit")
    table = fields.table(node, "config")
    fields.known_keys(table, "config", keys, _LATER_CONFIG)
    limits: dict[str, Any] = {key: fields.some_time(entry.value, key) for key, entry in table.entries.items()}
    return Config(**limits)


def read_tasks(node: Node | None) -> dict[str, Task]:
    """Return the tasks by name."""
    if node is None:
        return {}

    return {name: _task(entry) for name, entry in fields.table(node, "tasks").entries.items()}


def _task(entry: Entry) -> Task:
    name = fields.name(entry.key, "the name of a task")
    what = f"task {name!r}"
    table = fields.table(entry.value, what)
    fields.known_keys(table, what, (*_BEHAVIOUR, *_DELIVERY, "call"))
    queue, priority, call = (table.get(key) for key in (*_DELIVERY, "call"))
    path = None if call is None else _call(call, table)
    return Task(
        name=name,
        mark=entry.key.mark,
        behaviour=_behaviour(table) if call is None else None,
        call=path,
        queue=None if queue is None else fields.text(queue, "queue"),
        priority=None if priority is None else fields.integer(priority, "priority", 0, 255),
    )


def _call(node: Node, table: Table) -> str:
    path = fields.text(node, "call")
    if not _PATH.fullmatch(path):
        raise wrong(node.mark, f"found {describe(node)}; call is a dotted path: package.module.function")

    for key in _BEHAVIOUR:
        if entry := table.entries.get(key):
            raise wrong(
                entry.key.mark,
                f"found {key!r} beside call: a task of the app behaves as it is written; "
                f"allowed: {', '.join(_DELIVERY)}",
            )
    return path


def _behaviour(table: Table) -> Behaviour:
    said: dict[str, Any] = {}
    for key in _BEHAVIOUR:
        node = table.get(key)
        if node is None:
            continue

        match key:
            case "runs_for":
                said[key] = fields.duration(node, key)
            case "returns":
                said[key] = fields.plain(node)
            case "fails_with":
                said[key] = _failure(node)
            case "fails_times":
                said[key] = fields.integer(node, key, 1, 1000)
            case "ignores_soft_limit":
                said[key] = fields.boolean(node, key)
            case _:
                said[key] = _retry(node)
    behaviour = Behaviour(**said)
    _check_retry(table, behaviour)
    return behaviour


def _check_retry(table: Table, behaviour: Behaviour) -> None:
    retry = table.entries.get("retry")
    if retry and behaviour.failure(1) is None:
        raise wrong(retry.key.mark, "found retry in a task that never fails; add fails_with or fails_times")


def _failure(node: Node) -> str:
    found = fields.text(node, "fails_with")
    name = found.partition(":")[0]
    looks_like_one = name.isidentifier() and (name.endswith(_ENDINGS) or nearest(name, EXCEPTIONS))
    if looks_like_one and name not in EXCEPTIONS:
        known = [name for name in EXCEPTIONS if name.endswith("Error")]
        raise wrong(node.mark, unknown("exception", name, known))
    return found


def _retry(node: Node) -> Retry:
    table = fields.table(node, "retry")
    fields.known_keys(table, "retry", ("max_attempts", "delay", "factor", "max_delay"))
    attempts = table.get("max_attempts")
    if attempts is None:
        raise wrong(table.mark, "max_attempts is missing in retry: how often it runs at most")

    said: dict[str, Any] = {"max_attempts": fields.integer(attempts, "max_attempts", 1, 1000)}
    for key in ("delay", "max_delay"):
        if (given := table.get(key)) is not None:
            said[key] = fields.duration(given, key)
    if (factor := table.get("factor")) is not None:
        said["factor"] = fields.number(factor, "factor", 1, 1000)
    return Retry(**said)
