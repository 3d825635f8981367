"""Reading ``workflows`` of a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.limits import MEMBERS
from pytest_taskservice.scenario.model import WORKFLOW_STATUSES, Workflow, WorkflowStep
from pytest_taskservice.scenario.nodes import Items, Node, Table, describe, wrong
from pytest_taskservice.scenario.tasks import read_call

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_taskservice.scenario.nodes import Entry

__all__ = ["EMITTED", "TOLD_EVENTS", "WORKFLOW_STEPS", "own_events", "read_workflows"]

WORKFLOW_STEPS = {
    "run": ("run",),
    "ask": ("ask", "timeout"),
    "emit": ("emit", "as"),
    "fail": ("fail",),
    "return": ("return",),
}
TOLD_EVENTS = (*WORKFLOW_STATUSES, "asked", "snapshot")
"""What the service itself tells the clients of a run, in the words of ``events``."""
EMITTED = "emit"
_RESERVED = (*TOLD_EVENTS, "status", "question")
_LAST = ("fail", "return")


def read_workflows(node: Node | None, tasks: Collection[str]) -> dict[str, Workflow]:
    """Return the workflows by name, none of which is that of one of ``tasks``."""
    if node is None:
        return {}

    found: dict[str, Workflow] = {}
    for entry in fields.parts(node, "workflows").values():
        name = fields.name(entry.key, "the name of a workflow")
        if name in tasks:
            raise wrong(entry.key.mark, f"found the workflow {name!r}, but a task has this name already")
        found[name] = _workflow(entry, name)
    return found


def own_events(workflow: Workflow | None) -> tuple[str, ...] | None:
    """Return the words of what a workflow itself tells; ``None`` where only its function knows."""
    if workflow is None or workflow.call is not None:
        return None
    return tuple(dict.fromkeys(step.text for step in workflow.steps if step.kind == "emit"))


def _workflow(entry: Entry, name: str) -> Workflow:
    what = f"workflow {name!r}"
    if isinstance(entry.value, Table):
        fields.known_keys(entry.value, what, ("call",))
        call = entry.value.get("call")
        if call is None:
            raise wrong(entry.value.mark, f"found an empty mapping; {what} is a list of steps, or has call")
        return Workflow(name=name, mark=entry.key.mark, call=read_call(call))

    if not isinstance(entry.value, Items):
        message = f"{what} is a list of steps, or a mapping with call"
        raise wrong(entry.value.mark, f"found {describe(entry.value)}; {message}")

    nodes = fields.items(entry.value, what, most=MEMBERS[1])
    steps = tuple(_step(item, what) for item in nodes)
    for step, node in zip(steps[:-1], nodes[1:], strict=True):
        if step.kind in _LAST:
            raise wrong(node.mark, f"found a step behind {step.kind}, which ends {what}")
    return Workflow(name=name, mark=entry.key.mark, steps=steps)


def _step(node: Node, what: str) -> WorkflowStep:
    table = fields.table(node, f"a step of {what}")
    kind = fields.action(table, f"a step of {what}", WORKFLOW_STEPS)
    value = table.entries[kind].value
    match kind:
        case "run":
            return WorkflowStep(kind=kind, seconds=fields.duration(value, kind))
        case "ask":
            timeout = table.get("timeout")
            seconds = 0.0 if timeout is None else fields.some_time(timeout, "timeout")
            return WorkflowStep(kind=kind, text=fields.text(value, kind), seconds=seconds)
        case "emit":
            return _emit(table, value)
        case "fail":
            return WorkflowStep(kind=kind, text=fields.text(value, kind))
    return WorkflowStep(kind=kind, value=fields.plain(value))


def _emit(table: Table, node: Node) -> WorkflowStep:
    event: Any = EMITTED
    if (given := table.get("as")) is not None:
        event = fields.name(given, "as")
        if event in _RESERVED:
            raise wrong(
                given.mark, f"found {event!r}, which only the service itself tells; take another word"
            )
    value = fields.plain(fields.table(node, "emit"))
    return WorkflowStep(kind="emit", text=event, value=value)
