"""Reading faults: those of ``inject`` and those that the seed draws (``faults``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import FAULT_TARGETS, FaultCall
from pytest_taskservice.scenario.limits import BYTES, DRAWN, STRIKES
from pytest_taskservice.scenario.model import Nemesis, Workers
from pytest_taskservice.scenario.nodes import Items, Node, Scalar, Table, describe, wrong
from pytest_taskservice.scenario.words import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_taskservice.scenario.captured import Cast

__all__ = ["FAULT_OPTIONS", "KINDS", "NEMESIS", "POINTS", "read_fault", "read_nemesis"]

POINTS = ("received", "started", "running", "stored")
FAULT_OPTIONS = (
    *("target", "worker", "when", "into", "task", "queue", "for", "by", "rate", "size", "restart", "times"),
)
NEMESIS = ("kinds", "every", "until", "limit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What a kind of fault may be told, and what it ``needs`` to be told."""

    options: tuple[str, ...]
    needs: tuple[str, ...] = ()
    targets: tuple[str, ...] = FAULT_TARGETS
    points: tuple[str, ...] = POINTS


_WORKER = ("worker",)
_PROCESS = ("target", "worker")
_POINT = ("when", "into", "task", "times")
_DELIVERY = ("target", "task", "queue", "times", "for")
KINDS: Mapping[str, Rule] = {
    "kill": Rule(options=(*_PROCESS, *_POINT, "for", "restart")),
    "term": Rule(options=(*_PROCESS, *_POINT, "for", "restart")),
    "pause": Rule(options=(*_PROCESS, *_POINT, "for")),
    "restart": Rule(options=(*_PROCESS, *_POINT, "for", "restart")),
    "lose_child": Rule(
        options=(*_PROCESS, *_POINT, "for"), needs=("when",), targets=_WORKER, points=POINTS[1:]
    ),
    "slow": Rule(options=(*_PROCESS, "task", "by", "for"), needs=("by",), targets=_WORKER),
    "latency": Rule(options=(*_PROCESS, "by", "for"), needs=("by",)),
    "down": Rule(options=(*_PROCESS, "for")),
    "timeout": Rule(options=(*_PROCESS, "for")),
    "reset_peer": Rule(options=(*_PROCESS, "for")),
    "bandwidth": Rule(options=(*_PROCESS, "rate", "for"), needs=("rate",)),
    "slicer": Rule(options=(*_PROCESS, "size", "by", "for"), needs=("size",)),
    "duplicate": Rule(options=(*_DELIVERY, "by"), targets=_WORKER),
    "drop_ack": Rule(options=_DELIVERY, targets=_WORKER),
    "delay": Rule(options=(*_DELIVERY, "by"), needs=("by",), targets=_WORKER),
}
"""Every kind of fault. An option that is not here would do nothing, and is refused."""


def read_fault(table: Table, cast: Cast) -> FaultCall:
    """Return the fault that ``table`` describes by ``inject`` and its options."""
    kind = fields.word(table.entries["inject"].value, "fault", tuple(KINDS))
    rule = KINDS[kind]
    given = {name: entry for name, entry in table.entries.items() if name in FAULT_OPTIONS}
    for name, entry in given.items():
        if name not in rule.options:
            allowed = ", ".join(rule.options)
            raise wrong(entry.key.mark, f"found {name!r}, which means nothing for {kind}; allowed: {allowed}")
    for name in rule.needs:
        if name not in given:
            raise wrong(table.mark, f"{name} is missing in {kind}; {_MEANINGS[name]}")
    said = {_FIELDS.get(name, name): _option(name, entry.value, kind, cast) for name, entry in given.items()}
    call = FaultCall(kind=kind, **said)
    _check(table, call, rule)
    return call


_MEANINGS = {
    "when": f"say at which point of a run's life: {', '.join(POINTS)}",
    "by": "say by how much time, such as 200ms",
    "rate": "say how many bytes a second",
    "size": "say how many bytes a slice has",
}
_FIELDS = {"for": "lasts"}


def _option(name: str, node: Node, kind: str, cast: Cast) -> Any:
    match name:
        case "target":
            return fields.word(node, "target", KINDS[kind].targets)
        case "worker":
            return _worker(node, cast.workers or Workers())
        case "when":
            return fields.word(node, "point", KINDS[kind].points)
        case "task":
            return fields.word(node, "task", tuple(cast.tasks))
        case "restart":
            return _restart(node, kind)
    return _READERS[name](node, name)


def _restart(node: Node, kind: str) -> float | None:
    if not isinstance(node, Scalar) or node.value != "never":
        return fields.duration(node, "restart")

    if kind == "restart":
        raise wrong(node.mark, "found never; what is restarted comes up again, restart says how much later")
    return None


def _bytes(node: Node, what: str) -> int:
    return fields.integer(node, what, *BYTES)


def _worker(node: Node, workers: Workers) -> str:
    known = tuple(f"worker{number}" for number in range(1, workers.count + 1))
    return fields.word(node, "worker", known)


def _times(node: Node, what: str) -> int | None:
    if isinstance(node, Scalar) and node.value == "always":
        return None
    if isinstance(node, Scalar) and isinstance(node.value, str):
        message = unknown("number of times", node.value, ("always", "a whole number from 1 on"))
        raise wrong(node.mark, message)
    return fields.integer(node, what, *STRIKES)


_READERS: Mapping[str, Callable[[Node, str], Any]] = {
    "queue": fields.text,
    "rate": _bytes,
    "size": _bytes,
    "times": _times,
    "into": fields.duration,
    "for": fields.some_time,
    "by": fields.some_time,
}


def _check(table: Table, call: FaultCall, rule: Rule) -> None:
    """Raise at options that say nothing beside the others."""
    if call.target != "worker":
        for name in ("worker", "when"):
            if entry := table.entries.get(name):
                raise wrong(entry.key.mark, f"found {name!r} for target {call.target}; only workers have any")
    if call.into and call.when != "running":
        message = "found into, how far a body has run; it needs when: running"
        raise wrong(table.entries["into"].key.mark, message)

    if call.kind == "pause" and call.when and call.lasts is None:
        message = "for is missing in pause with when; say how long it lasts, for nobody knows when it begins"
        raise wrong(table.mark, message)
    if "when" in rule.options and not call.when:
        # For how long it lies in wait; of a pause how long it lasts.
        for name in ("task", "times", *(() if call.kind == "pause" else ("for",))):
            if entry := table.entries.get(name):
                raise wrong(
                    entry.key.mark,
                    f"found {name!r} without when: {call.kind} strikes at once, unless when says at which "
                    f"point of a run: {', '.join(rule.points)}",
                )


def read_nemesis(node: Node | None, cast: Cast) -> Nemesis | None:
    """Return the faults that the seed draws; ``None`` if a story has none."""
    if node is None:
        return None

    table = fields.table(node, "faults")
    fields.known_keys(table, "faults", NEMESIS)
    for key in ("kinds", "every", "until"):
        if key not in table.entries:
            raise wrong(table.mark, f"{key} is missing in faults; allowed: {', '.join(NEMESIS)}")

    kinds = tuple(_kind(item, cast) for item in fields.items(table.entries["kinds"].value, "kinds"))
    every = _every(table.entries["every"].value)
    until = fields.some_time(table.entries["until"].value, "until")
    limit = table.get("limit")
    most = None if limit is None else fields.integer(limit, "limit", *DRAWN)
    if until < every[0]:
        mark = table.entries["until"].value.mark
        raise wrong(mark, "found until before the first fault; none would be drawn")
    if most is None and until / every[0] > DRAWN[1]:
        raise wrong(
            table.entries["every"].value.mark, f"found room for more than {DRAWN[1]} faults; set a limit"
        )
    return Nemesis(mark=table.mark, kinds=kinds, every=every, until=until, limit=most)


def _kind(node: Node, cast: Cast) -> FaultCall:
    if isinstance(node, Table):
        fields.known_keys(node, "one of kinds", ("inject", *FAULT_OPTIONS))
        if "inject" not in node.entries:
            raise wrong(node.mark, "inject is missing in one of kinds; write kill, or {inject: kill, ...}")
        return read_fault(node, cast)

    kind = fields.word(node, "fault", tuple(KINDS))
    for name in KINDS[kind].needs:
        message = f"found {kind} without {name}; write {{inject: {kind}, {name}: ...}}: {_MEANINGS[name]}"
        raise wrong(node.mark, message)
    return FaultCall(kind=kind)


def _every(node: Node) -> tuple[float, float]:
    if not isinstance(node, Items):
        seconds = fields.some_time(node, "every")
        return (seconds, seconds)

    if len(node.items) != 2:
        raise wrong(node.mark, f"found {describe(node)} of {len(node.items)}; every is a time, or [from, to]")
    low, high = (fields.some_time(item, "every") for item in node.items)
    if low > high:
        raise wrong(node.mark, "found a range that ends before it begins; every is [from, to]")
    return (low, high)
