"""Reading ``steps`` and ``finally`` of a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import (
    Advance,
    Command,
    Continue,
    Disconnect,
    Follow,
    Heal,
    Inject,
    Input,
    Launch,
    Reconnect,
    Revoke,
    Start,
    Step,
    Stop,
    Together,
    Wait,
)
from pytest_taskservice.scenario.captured import Kind
from pytest_taskservice.scenario.faults import FAULT_OPTIONS, read_fault
from pytest_taskservice.scenario.launches import LAUNCH, START, read_launch, read_start
from pytest_taskservice.scenario.limits import MEMBERS
from pytest_taskservice.scenario.limits import STEPS as STEP_COUNT
from pytest_taskservice.scenario.nodes import Node, Scalar, Table, wrong
from pytest_taskservice.scenario.story import moments
from pytest_taskservice.scenario.words import format_duration, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_taskservice.scenario.captured import Cast, Names
    from pytest_taskservice.scenario.model import Workflow

__all__ = ["COMMANDS", "INSTANT", "STEPS", "read_steps"]

Capturing = TypeVar("Capturing", Launch, Start, Input, Continue, Stop, Follow, Inject)

INSTANT = ("at", "after")
STEPS: Mapping[str, tuple[str, ...]] = {
    "launch": (*INSTANT, *LAUNCH),
    "start": (*INSTANT, *START),
    "input": (*INSTANT, "input", "value", "question", "as"),
    "continue": (*INSTANT, "continue", "as"),
    "stop": (*INSTANT, "stop", "as"),
    "follow": (*INSTANT, "follow", "as"),
    "disconnect": (*INSTANT, "disconnect"),
    "reconnect": (*INSTANT, "reconnect"),
    "wait": (*INSTANT, "wait", "within"),
    "advance": (*INSTANT, "advance"),
    "revoke": (*INSTANT, "revoke"),
    "inject": (*INSTANT, "inject", *FAULT_OPTIONS, "as"),
    "heal": (*INSTANT, "heal"),
    "together": (*INSTANT, "together"),
}
"""The keys of each kind of step."""
COMMANDS = {
    key: tuple(name for name in STEPS[key] if name not in INSTANT)
    for key in ("launch", "start", "input", "continue", "stop", "revoke")
}
_BEFORE = "captured by no as: before this"
_EVERY_FAULT = "all"
_REVOCABLE = (Kind.RUN, Kind.MEMBERS, Kind.ENTRY)
_ENDING = (Kind.RUN, Kind.MEMBERS, Kind.WORKFLOW)


def read_steps(node: Node, cast: Cast, names: Names, *, what: str = "steps") -> tuple[Step, ...]:
    """Return the steps in order, and add what they capture to ``names``.

    A ``finally`` (the ``what`` that has no instants since the start) refuses ``at``.
    """
    reader = _Reader(cast, names)
    steps: list[Step] = []
    for item in fields.items(node, what, most=STEP_COUNT[1]):
        table = fields.table(item, "a step")
        if what == "finally" and (entry := table.entries.get("at")):
            raise wrong(entry.key.mark, "found 'at' in finally, whose start nobody knows; allowed: after")
        steps.append(reader.read(table))
    _check_order(tuple(steps), cast)
    return tuple(steps)


class _Reader:
    """Reads one step after the other; each knows what those before it have captured."""

    def __init__(self, cast: Cast, names: Names) -> None:
        self._cast = cast
        self._names = names
        self._known = names

    def read(self, table: Table) -> Step:
        """Return one step."""
        kind = fields.action(table, "a step", STEPS)
        if kind in COMMANDS:
            return self._command(kind, table, _when(table))

        readers: Mapping[str, Callable[[Table, Node, Mapping[str, Any]], Step]] = {
            "follow": self._follow,
            "disconnect": self._disconnect,
            "reconnect": self._reconnect,
            "wait": self._wait,
            "advance": self._advance,
            "inject": self._inject,
            "heal": self._heal,
            "together": self._together,
        }
        return readers[kind](table, table.entries[kind].value, _when(table))

    def _command(self, kind: str, table: Table, when: Mapping[str, Any]) -> Command:
        node = table.entries[kind].value
        match kind:
            case "launch":
                launch = read_launch(table, self._cast, name=self._as(table), **when)
                return self._captured(Kind.RUN, launch, canvas=launch.task in self._cast.canvases)
            case "start":
                start = read_start(table, self._cast, name=self._as(table), **when)
                if start.name is not None:
                    self._names.workflows[start.name] = self._cast.workflows[start.workflow]
                return self._captured(Kind.WORKFLOW, start)
            case "revoke":
                return Revoke(mark=table.mark, name=self._find(node, kind, _REVOCABLE), **when)

        said: dict[str, Any] = {"mark": table.mark, "run": self._find(node, kind, (Kind.WORKFLOW,)), **when}
        said["name"] = self._as(table)
        if kind == "input":
            workflow = self._names.workflows[said["run"]]
            return self._captured(Kind.COMMAND, _input(table, said, workflow))
        if kind == "continue":
            return self._captured(Kind.COMMAND, Continue(**said))
        return self._captured(Kind.COMMAND, Stop(**said))

    def _as(self, table: Table) -> str | None:
        node = table.get("as")
        return None if node is None else self._names.take(node)

    def _captured(self, kind: Kind, step: Capturing, *, canvas: bool = False) -> Capturing:
        if step.name is not None:
            self._names.add(step.name, kind, step.mark, canvas=canvas)
        return step

    def _find(self, node: Node, what: str, kinds: tuple[Kind, ...]) -> str:
        return self._known.find(node, what, kinds, where=_BEFORE)

    def _follow(self, table: Table, node: Node, when: Mapping[str, Any]) -> Follow:
        run = self._find(node, "follow", (Kind.WORKFLOW,))
        name = self._as(table)
        if name is None:
            raise wrong(table.mark, "as is missing in a follow step: the name of the client")
        return self._captured(Kind.CLIENT, Follow(mark=table.mark, run=run, name=name, **when))

    def _disconnect(self, table: Table, node: Node, when: Mapping[str, Any]) -> Disconnect:
        client = self._find(node, "disconnect", (Kind.CLIENT,))
        if client in self._names.away:
            raise wrong(node.mark, f"found disconnect of {client!r}, which is not connected by then")

        self._names.away.add(client)
        return Disconnect(mark=table.mark, client=client, **when)

    def _reconnect(self, table: Table, node: Node, when: Mapping[str, Any]) -> Reconnect:
        client = self._find(node, "reconnect", (Kind.CLIENT,))
        if client not in self._names.away:
            raise wrong(node.mark, f"found reconnect of {client!r}, which is connected by then")

        self._names.away.discard(client)
        return Reconnect(mark=table.mark, client=client, **when)

    def _advance(self, table: Table, node: Node, when: Mapping[str, Any]) -> Advance:
        return Advance(mark=table.mark, duration=fields.some_time(node, "advance"), **when)

    def _inject(self, table: Table, node: Node, when: Mapping[str, Any]) -> Inject:
        fault = read_fault(table, self._cast)
        return self._captured(Kind.FAULT, Inject(mark=table.mark, fault=fault, name=self._as(table), **when))

    def _heal(self, table: Table, node: Node, when: Mapping[str, Any]) -> Heal:
        if isinstance(node, Scalar) and node.value == _EVERY_FAULT:
            return Heal(mark=table.mark, **when)

        names = self._known.find_all(node, "heal", (Kind.FAULT,), where=f"{_BEFORE}; all heals every fault")
        return Heal(mark=table.mark, names=names, **when)

    def _wait(self, table: Table, node: Node, when: Mapping[str, Any]) -> Wait:
        within = table.entries.get("within")
        if fields.looks_timed(node):
            if within:
                raise wrong(within.key.mark, "found within beside a duration; it bounds a wait for runs")
            return Wait(mark=table.mark, duration=fields.duration(node, "wait"), **when)

        bound = {} if within is None else {"within": fields.some_time(within.value, "within")}
        runs = self._known.find_all(node, "wait", _ENDING, where=_BEFORE)
        return Wait(mark=table.mark, runs=runs, **bound, **when)

    def _together(self, table: Table, node: Node, when: Mapping[str, Any]) -> Together:
        items = fields.items(node, "together", most=MEMBERS[1])
        if len(items) < 2:
            raise wrong(node.mark, "found one command in together; it takes two to race")

        # None of them comes before the others: what one captures is no name for another one.
        self._known = self._names.copy()
        steps: list[Command] = []
        for item in items:
            inner = fields.table(item, "a command")
            kind = fields.action(inner, "a command in together", COMMANDS)
            steps.append(self._command(kind, inner, {}))
        self._known = self._names
        return Together(mark=table.mark, steps=tuple(steps), **when)


def _input(table: Table, said: dict[str, Any], workflow: Workflow) -> Input:
    if (value := table.get("value")) is not None:
        said["value"] = fields.plain(value)
    if (question := table.get("question")) is not None:
        said["question"] = prompt = fields.text(question, "question")
        asked = dict.fromkeys(step.text for step in workflow.steps if step.kind == "ask")
        if workflow.call is None and prompt not in asked:
            raise wrong(question.mark, unknown("question", prompt, asked, where=f"of {workflow.name!r}"))
    return Input(**said)


def _when(table: Table) -> dict[str, float]:
    if table.entries.keys() >= set(INSTANT):
        mark = table.entries["after"].key.mark
        raise wrong(mark, "found at and after in one step; a step has one of the two")

    return {key: fields.duration(node, key) for key in INSTANT if (node := table.get(key)) is not None}


def _check_order(steps: tuple[Step, ...], cast: Cast) -> None:
    """Raise at a step whose instant has passed before the step above it is over."""
    now = 0.0
    for moment in moments(steps, cast.tasks, cast.config, **cast.parts):
        at = moment.step.at
        if at is not None and at < now:
            raise wrong(
                moment.step.mark,
                f"found at: {format_duration(at)} behind a step that is not over before "
                f"{format_duration(now)}; steps stand in the order of their instants",
            )
        now = moment.ends
