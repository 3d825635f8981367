"""Reading ``tasks`` of a document: synthetic ones, those of the app, and canvases."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.behaviour import EXCEPTIONS, Behaviour, Retry
from pytest_taskservice.scenario.limits import ATTEMPTS, FACTOR, MEMBERS, PRIORITY
from pytest_taskservice.scenario.model import Canvas, Task
from pytest_taskservice.scenario.nodes import Entry, Node, Scalar, Table, describe, wrong
from pytest_taskservice.scenario.words import nearest, unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["CANVAS", "RETRY", "TASK", "read_call", "read_tasks"]

_BEHAVIOUR = ("runs_for", "returns", "fails_with", "fails_times", "ignores_soft_limit", "retry")
_DELIVERY = ("queue", "priority")
TASK = (*_BEHAVIOUR, *_DELIVERY, "call")
CANVAS = {"chain": ("chain",), "group": ("group",), "chord": ("chord", "body")}
RETRY = ("max_attempts", "delay", "factor", "max_delay")
_ENDINGS = ("Error", "Exception", "Exit", "Interrupt")
_MAX_PATH = 300
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def read_tasks(node: Node | None) -> tuple[dict[str, Task], dict[str, Canvas]]:
    """Return the tasks by name, and the canvases that are made of them."""
    if node is None:
        return {}, {}

    entries = fields.parts(node, "tasks").values()
    tables = [(entry, fields.table(entry.value, _what(entry))) for entry in entries]
    tasks = {
        task.name: task for entry, table in tables if not _is_canvas(table) for task in [_task(entry, table)]
    }
    canvases = [(entry, table) for entry, table in tables if _is_canvas(table)]
    names = {str(entry.key.value) for entry, _ in canvases}
    return tasks, {canvas.name: canvas for pair in canvases for canvas in [_canvas(*pair, tasks, names)]}


def _what(entry: Entry) -> str:
    return f"task {fields.name(entry.key, 'the name of a task')!r}"


def _is_canvas(table: Table) -> bool:
    return any(key in table.entries for key in CANVAS)


def _canvas(entry: Entry, table: Table, tasks: Mapping[str, Task], canvases: Collection[str]) -> Canvas:
    name, what = str(entry.key.value), _what(entry)
    kinds = [key for key in CANVAS if key in table.entries]
    if len(kinds) > 1:
        raise wrong(table.mark, f"found {' and '.join(kinds)} in {what}; it is one of: {', '.join(CANVAS)}")

    kind = kinds[0]
    fields.known_keys(table, f"{what}, a {kind}", CANVAS[kind])
    nodes = fields.items(table.entries[kind].value, kind, most=MEMBERS[1])
    body = table.get("body")
    if kind == "chord" and body is None:
        raise wrong(table.mark, f"body is missing in {what}: the task that runs when the others are done")
    return Canvas(
        name=name,
        mark=entry.key.mark,
        kind=kind,
        members=tuple(_member(item, name, tasks, canvases) for item in nodes),
        body=None if body is None else _member(body, name, tasks, canvases),
    )


def _member(node: Node, canvas: str, tasks: Mapping[str, Task], canvases: Collection[str]) -> str:
    found = node.value if isinstance(node, Scalar) else None
    if found == canvas:
        raise wrong(node.mark, f"found {found!r} within itself; a canvas is made of other tasks")
    if found in canvases:
        raise wrong(node.mark, f"found {found!r}, a canvas; a canvas is made of tasks, not of canvases")
    return fields.word(node, "task", tuple(tasks))


def _task(entry: Entry, table: Table) -> Task:
    fields.known_keys(table, _what(entry), TASK)
    queue, priority, call = (table.get(key) for key in (*_DELIVERY, "call"))
    path = None if call is None else _call(call, table)
    return Task(
        name=str(entry.key.value),
        mark=entry.key.mark,
        behaviour=_behaviour(table) if call is None else None,
        call=path,
        queue=None if queue is None else fields.text(queue, "queue"),
        priority=None if priority is None else fields.integer(priority, "priority", *PRIORITY),
    )


def read_call(node: Node) -> str:
    """Return the dotted path of a function of the app."""
    path = fields.text(node, "call")
    if not _PATH.fullmatch(path) or len(path) > _MAX_PATH:
        raise wrong(node.mark, f"found {describe(node)}; call is a dotted path: package.module.function")
    return path


def _call(node: Node, table: Table) -> str:
    path = read_call(node)
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
                said[key] = fields.integer(node, key, *ATTEMPTS)
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
    fields.known_keys(table, "retry", RETRY)
    attempts = table.get("max_attempts")
    if attempts is None:
        raise wrong(table.mark, "max_attempts is missing in retry: how often it runs at most")

    said: dict[str, Any] = {"max_attempts": fields.integer(attempts, "max_attempts", *ATTEMPTS)}
    for key in ("delay", "max_delay"):
        if (given := table.get(key)) is not None:
            said[key] = fields.duration(given, key)
    if (factor := table.get("factor")) is not None:
        said["factor"] = fields.number(factor, "factor", *FACTOR)
    return Retry(**said)
