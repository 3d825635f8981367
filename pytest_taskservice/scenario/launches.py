"""Reading what a step submits: a task, a canvas, a workflow, and their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import Launch, Start
from pytest_taskservice.scenario.nodes import Items, Table, describe, wrong

if TYPE_CHECKING:
    from pytest_taskservice.scenario.captured import Cast

__all__ = ["LAUNCH", "START", "read_launch", "read_start"]

LAUNCH = ("launch", "as", "count", "countdown", "expires", "priority", "args", "kwargs")
START = ("start", "as", "count", "args", "kwargs")
_OF_A_CANVAS = ("as", "count")


def read_launch(table: Table, cast: Cast, *, name: str | None, **when: Any) -> Launch:
    """Return the launch that ``table`` describes."""
    node = table.entries["launch"].value
    task = fields.word(node, "task", (*cast.tasks, *cast.canvases))
    if task in cast.canvases:
        _check_canvas(table, task)
        said = _count(table)
        return Launch(mark=table.mark, task=task, name=name, **said, **when)

    synthetic = cast.tasks[task].call is None
    said = {**_arguments(table, f"{task!r}, a synthetic task", refuse=synthetic), **_count(table)}
    for key in ("countdown", "expires"):
        if (given := table.get(key)) is not None:
            said[key] = fields.some_time(given, key)
    if (given := table.get("priority")) is not None:
        said["priority"] = fields.integer(given, "priority", 0, 255)
    return Launch(mark=table.mark, task=task, name=name, **said, **when)


def read_start(table: Table, cast: Cast, *, name: str | None, **when: Any) -> Start:
    """Return the start that ``table`` describes."""
    workflow = fields.word(table.entries["start"].value, "workflow", tuple(cast.workflows))
    synthetic = cast.workflows[workflow].call is None
    said = {**_arguments(table, f"{workflow!r}, a synthetic workflow", refuse=synthetic), **_count(table)}
    return Start(mark=table.mark, workflow=workflow, name=name, **said, **when)


def _check_canvas(table: Table, canvas: str) -> None:
    for key in LAUNCH[1:]:
        if key not in _OF_A_CANVAS and (entry := table.entries.get(key)):
            raise wrong(
                entry.key.mark,
                f"found {key!r} for {canvas!r}, a canvas; allowed: {', '.join(_OF_A_CANVAS)}",
            )


def _count(table: Table) -> dict[str, Any]:
    count = table.get("count")
    return {} if count is None else {"count": fields.integer(count, "count", 1, 10_000)}


def _arguments(table: Table, what: str, *, refuse: bool) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key in ("args", "kwargs"):
        entry = table.entries.get(key)
        if entry is None:
            continue

        if refuse:
            raise wrong(entry.key.mark, f"found {key} for {what}; only one with call takes any")
        if key == "kwargs":
            said[key] = fields.plain(fields.table(entry.value, key))
        elif isinstance(entry.value, Items):
            said[key] = tuple(fields.plain(entry.value))
        else:
            raise wrong(entry.value.mark, f"found {describe(entry.value)}; args is a list")
    return said
