"""Reading ``expect`` of a document; ``possible`` refuses what no story could meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.captured import Cast, Kind, Names
from pytest_taskservice.scenario.limits import ATTEMPTS, COUNTED, PARTS, REPEATED
from pytest_taskservice.scenario.model import (
    REASONS,
    STATUSES,
    WORKFLOW_REASONS,
    WORKFLOW_STATUSES,
    Expectation,
    Property,
)
from pytest_taskservice.scenario.nodes import Node, Table, wrong
from pytest_taskservice.scenario.possible import Told, check
from pytest_taskservice.scenario.targets import Target, targets
from pytest_taskservice.scenario.words import unknown
from pytest_taskservice.scenario.workflows import TOLD_EVENTS, own_events

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.scenario.acts import Step

__all__ = ["BOUNDS", "COMMAND_ERRORS", "FLOW_EVENTS", "MATCHERS", "RUN_EVENTS", "read_claims"]

_RUN = ("status", "result", "error", "reason", "attempts", "events", "deliveries", "starts", "runs")
MATCHERS: Mapping[Kind, tuple[str, ...]] = {
    Kind.RUN: _RUN,
    Kind.MEMBERS: _RUN,
    Kind.ENTRY: _RUN,
    Kind.WORKFLOW: ("status", "result", "error", "reason", "events", "runs", "stored_keys"),
    Kind.COMMAND: ("taken", "error"),
    Kind.CLIENT: ("events",),
    Kind.FAULT: ("struck",),
    Kind.WORKERS: ("all_occupied", "running", "alive"),
}
"""What may be said of each kind of target."""
BOUNDS = {Property.EVENTUALLY: "within", Property.AT: "time"}
"""The key of those properties that have an instant."""
RUN_EVENTS = (
    *(EventKind.SENT, EventKind.RECEIVED, EventKind.STARTED, EventKind.RETRIED),
    *(EventKind.SUCCEEDED, EventKind.FAILED, EventKind.REVOKED, EventKind.REJECTED),
)
FLOW_EVENTS = (EventKind.CHANGED, EventKind.ASKED, EventKind.TOLD)
"""What ``order`` may compare of workflow runs; ``events`` says what each of these said."""
COMMAND_ERRORS = ("workflow_expired", "workflow_over", "question_not_open", "conflict", "unknown_workflow")
COUNTS: Mapping[str, tuple[int, int]] = {"attempts": ATTEMPTS, "deliveries": REPEATED, "starts": REPEATED}
_ORDERED = (Kind.RUN, Kind.MEMBERS, Kind.ENTRY, Kind.WORKFLOW)
_WHERE = "captured by no as: of a step, and no beat entry"


def read_claims(
    node: Node, steps: tuple[Step, ...], cast: Cast, names: Names, *, breaks: bool
) -> tuple[Expectation, ...]:
    """Return the expectations in the order of the file; ``breaks`` says that the seed draws faults."""
    table = fields.table(node, "expect")
    fields.known_keys(table, "expect", tuple(Property))
    if not table.entries:
        raise wrong(table.mark, "found an empty expect; a scenario that expects nothing proves nothing")

    reader = _Reader(cast, names, targets(steps, cast, breaks=breaks))
    return tuple(
        reader.read(Property(key), fields.table(item, f"an item of {key}"))
        for key, entry in table.entries.items()
        for item in fields.items(entry.value, key, most=PARTS[1])
    )


class _Reader:
    """Reads the items of ``expect``."""

    def __init__(self, cast: Cast, names: Names, found: Mapping[str, Target]) -> None:
        self._cast = cast
        self._names = names
        self._targets = found

    def read(self, kind: Property, table: Table) -> Expectation:
        """Return one expectation."""
        what = f"an item of {kind}"
        if "of" not in table.entries:
            allowed = ("of", "event") if kind is Property.ORDER else (*_bound(kind), "of", *_RUN)
            fields.known_keys(table, what, (*allowed, *_every_matcher()))
            raise wrong(table.mark, f"of is missing in {what}; allowed: {', '.join(allowed)}")

        if kind is Property.ORDER:
            return self._order(table)
        target = self._target(table.entries["of"].value)
        wanted, instant = self._wanted(kind, table, target), None
        if key := next(iter(_bound(kind)), None):
            instant = fields.duration(table.entries[key].value, key)
        told = Told(kind=kind, table=table, wanted=wanted, instant=instant, bound=key or "")
        check(told, target, self._cast)
        return Expectation(mark=table.mark, property=kind, of=target.name, wanted=wanted, instant=instant)

    def _target(self, node: Node) -> Target:
        name = fields.text(node, "of")
        if name in self._targets:
            return self._targets[name]

        known = sorted(self._targets)
        raise wrong(node.mark, unknown("run", name, known, where=f"({_WHERE})"))

    def _wanted(self, kind: Property, table: Table, target: Target) -> dict[str, Any]:
        matchers = MATCHERS[target.kind]
        allowed, what = (*_bound(kind), "of", *matchers), f"an item of {kind}"
        for key, entry in table.entries.items():
            if key in _every_matcher() and key not in matchers:
                raise wrong(
                    entry.key.mark,
                    f"found {key} of {target}; {key} is of a {_owners(key)}; allowed: {', '.join(matchers)}",
                )
        fields.known_keys(table, f"{what} of {target}", allowed)
        for key in _bound(kind):
            if key not in table.entries:
                raise wrong(table.mark, f"{key} is missing in {what}; allowed: {', '.join(allowed)}")

        wanted = {key: _read(key, given, target) for key in matchers if (given := table.get(key)) is not None}
        if not wanted:
            raise wrong(table.mark, f"{what} wants nothing; add one of: {', '.join(matchers)}")
        return wanted

    def _order(self, table: Table) -> Expectation:
        fields.known_keys(table, "an item of order", ("of", "event"))
        if "event" not in table.entries:
            raise wrong(table.mark, "event is missing in an item of order; allowed: of, event")

        node = table.entries["of"].value
        found = self._names.find_all(node, "of", _ORDERED, where=_WHERE)
        if len(found) < 2:
            raise wrong(node.mark, "found one name in order; it takes two to have one")

        kinds = {self._names.kind(name) is Kind.WORKFLOW for name in found}
        if len(kinds) > 1:
            raise wrong(node.mark, "found task runs and workflow runs in one order; they share no event")
        events = FLOW_EVENTS if True in kinds else RUN_EVENTS
        event = fields.word(table.entries["event"].value, "event", events)
        return Expectation(
            mark=table.mark,
            property=Property.ORDER,
            of=found[0],
            wanted={"event": event},
            targets=found,
        )


def _bound(kind: Property) -> tuple[str, ...]:
    return (BOUNDS[kind],) if kind in BOUNDS else ()


def _every_matcher() -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for keys in MATCHERS.values() for key in keys))


def _owners(matcher: str) -> str:
    owners = (kind for kind in Kind if matcher in MATCHERS[kind] and kind not in (Kind.MEMBERS, Kind.ENTRY))
    return " or ".join(owners)


def _read(key: str, node: Node, target: Target) -> Any:
    if words := _words(key, target):
        return fields.word(node, key, words, where=f"of {target}")

    match key:
        case "result":
            return fields.plain(node)
        case "error":
            return fields.text(node, key, lines=True)
        case "events":
            return [_event(item, target) for item in fields.items(node, key)]
        case "taken" | "all_occupied":
            return fields.boolean(node, key)
    return fields.integer(node, key, *COUNTS.get(key, COUNTED))


def _words(key: str, target: Target) -> tuple[str, ...]:
    """Return the words there are for ``key``, if it is one of those that have any."""
    flows = target.kind is Kind.WORKFLOW
    match key:
        case "status":
            return WORKFLOW_STATUSES if flows else STATUSES
        case "reason":
            return WORKFLOW_REASONS if flows else REASONS
        case "error" if target.kind is Kind.COMMAND:
            return COMMAND_ERRORS
    return ()


def _event(node: Node, target: Target) -> str:
    if target.kind not in (Kind.WORKFLOW, Kind.CLIENT):
        return str(fields.word(node, "event", RUN_EVENTS))

    own = own_events(target.workflow)
    # Only a function knows what it tells.
    return fields.name(node, "event") if own is None else fields.word(node, "event", (*TOLD_EVENTS, *own))
