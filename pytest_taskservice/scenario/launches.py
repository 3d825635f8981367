"""Reading what a step submits: a task, a canvas, a workflow, and their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import Launch, Start
from pytest_taskservice.scenario.limits import LAUNCHES, PRIORITY
from pytest_taskservice.scenario.nodes import Items, Table, describe, wrong

if TYPE_CHECKING:
    from pytest_taskservice.scenario.captured import Cast

__all__ = ["LAUNCH", "START", "read_launch", "read_start"]

LAUNCH = ("launch", "as", "count", "countdown", "expires", "priority", "args", "kwargs")
START = ("start", "as", "count", "args", "kwargs")


def read_launch(table: Table, cast: Cast, *, name: str | None, **when: Any) -> Launch:
    """Return the launch that ``table`` describes."""
    node = table.entries["launch"].value
    task = fields.word(node, "task", (*cast.tasks, *cast.canvases))
    said = {**_arguments(table, *_first(task, cast)), **_count(table)}
    for key in ("countdown", "expires"):
        if (given := table.get(key)) is not None:
            said[key] = fields.some_time(given, key)
    if (given := table.get("priority")) is not None:
        said["priority"] = fields.integer(given, "priority", *PRIORITY)
    return Launch(mark=table.mark, task=task, name=name, **said, **when)


def _first(name: str, cast: Cast) -> tuple[str, bool]:
    """Return what gets the arguments, in words, and whether one of these is a task that takes none."""
    canvas = cast.canvases.get(name)
    first = (name,) if canvas is None else canvas.members[: 1 if canvas.kind == "chain" else None]
    synthetic = next((task for task in first if cast.tasks[task].call is None), None)
    return f"{synthetic or name!r}, a synthetic task", synthetic is not None


def read_start(table: Table, cast: Cast, *, name: str | None, **when: Any) -> Start:
    """Return the start that ``table`` describes."""
    workflow = fields.word(table.entries["start"].value, "workflow", tuple(cast.workflows))
    synthetic = cast.workflows[workflow].call is None
    said = {**_arguments(table, f"{workflow!r}, a synthetic workflow", synthetic), **_count(table)}
    return Start(mark=table.mark, workflow=workflow, name=name, **said, **when)


def _count(table: Table) -> dict[str, Any]:
    count = table.get("count")
    return {} if count is None else {"count": fields.integer(count, "count", *LAUNCHES)}


def _arguments(table: Table, what: str, refuse: bool) -> dict[str, Any]:
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
