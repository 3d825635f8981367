"""Reading ``workers``, ``beat``, ``seeds`` and ``invariants`` of a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields, limits
from pytest_taskservice.scenario.captured import RESERVED
from pytest_taskservice.scenario.model import INVARIANTS, Entry, Workers
from pytest_taskservice.scenario.nodes import Items, Node, Scalar, describe, wrong
from pytest_taskservice.scenario.words import nearest, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.scenario import nodes
    from pytest_taskservice.scenario.model import Canvas, Task

__all__ = ["BEAT", "POOLS", "WORKERS", "read_beat", "read_invariants", "read_seeds", "read_workers"]

WORKERS = ("count", "concurrency", "pool", "queues")
POOLS = ("prefork", "threads", "solo")
BEAT = ("launch", "every", "cron", "timezone")


def read_workers(node: Node | None) -> Workers | None:
    """Return the workers of a story; ``None`` leaves them to the world."""
    if node is None:
        return None

    table = fields.table(node, "workers")
    fields.known_keys(table, "workers", WORKERS)
    if not table.entries:
        raise wrong(table.mark, f"found an empty mapping; allowed: {', '.join(WORKERS)}")

    said: dict[str, Any] = {}
    for key, bounds in (("count", limits.WORKERS), ("concurrency", limits.SLOTS)):
        if (given := table.get(key)) is not None:
            said[key] = fields.integer(given, key, *bounds)
    if (pool := table.get("pool")) is not None:
        said["pool"] = fields.word(pool, "pool", POOLS)
        slots = table.entries.get("concurrency")
        if said["pool"] == "solo" and slots and said["concurrency"] > 1:
            raise wrong(slots.value.mark, f"found {said['concurrency']} slots; a solo pool has one")
        if said["pool"] == "solo":
            said["concurrency"] = 1
    if (queues := table.get("queues")) is not None:
        said["queues"] = fields.distinct(queues, "queues", fields.text)
    return Workers(**said)


def read_beat(
    node: Node | None, tasks: Mapping[str, Task], canvases: Mapping[str, Canvas]
) -> dict[str, Entry]:
    """Return the entries of the beat by name."""
    if node is None:
        return {}

    entries = fields.parts(node, "beat")
    if not entries:
        raise wrong(node.mark, "found an empty beat; write {name: {launch: task, every: 5m}}")
    return {name: _entry(entry, tasks, canvases) for name, entry in entries.items()}


def _entry(entry: nodes.Entry, tasks: Mapping[str, Task], canvases: Mapping[str, Canvas]) -> Entry:
    name = fields.name(entry.key, "the name of a beat entry")
    if why := RESERVED.get(name):
        raise wrong(entry.key.mark, f"found the name {name!r}, which is {why}; take another one")

    what = f"beat entry {name!r}"
    table = fields.table(entry.value, what)
    fields.known_keys(table, what, BEAT)
    launch, every, cron = (table.get(key) for key in ("launch", "every", "cron"))
    if launch is None:
        raise wrong(table.mark, f"launch is missing in {what}: the task that it launches")

    if (every is None) == (cron is None):
        found = "neither every nor cron" if every is None else "every and cron"
        raise wrong(table.mark, f"found {found} in {what}; an entry has one of the two")

    task = _launched(launch, tasks, canvases)
    zone = table.entries.get("timezone")
    if every is not None:
        if zone:
            raise wrong(zone.key.mark, "found timezone beside every; only cron has one")
        return Entry(name=name, mark=entry.key.mark, task=task, every=fields.some_time(every, "every"))

    assert cron is not None
    timezone = "UTC" if zone is None else _timezone(zone.value)
    return Entry(name=name, mark=entry.key.mark, task=task, cron=_cron(cron, timezone), timezone=timezone)


def _launched(node: Node, tasks: Mapping[str, Task], canvases: Mapping[str, Canvas]) -> str:
    if isinstance(node, Scalar) and node.value in canvases:
        raise wrong(node.mark, f"found {describe(node)}, a canvas; the beat launches tasks")
    return fields.word(node, "task", tuple(tasks))


def _cron(node: Node, timezone: str) -> str:
    from taskservice.schedules.cron import Cron

    text = fields.text(node, "cron")
    try:
        return Cron(text=text, zone=timezone).text
    except ValueError as error:
        message = str(error).rstrip(".")
        raise wrong(node.mark, f"{message}; cron is five fields, such as '0 2 * * *'") from error


def _timezone(node: Node) -> str:
    from zoneinfo import ZoneInfo, available_timezones

    name = fields.text(node, "timezone")
    try:
        ZoneInfo(name)
    # A folder of zones, a name too long, one with dots: each has an error of its own.
    except (LookupError, ValueError, OSError) as error:
        near = nearest(name, available_timezones())
        hint = f"; did you mean {near!r}?" if near else ""
        raise wrong(
            node.mark,
            f"unknown time zone {name[:60]!r}; timezone is a name such as Europe/Berlin{hint}",
        ) from error
    return name


def read_seeds(node: Node | None) -> tuple[int, ...]:
    """Return the seeds of a story; a number is that many, from 0 on."""
    if node is None:
        return ()

    if not isinstance(node, Items):
        return tuple(range(fields.integer(node, "seeds", *limits.SEEDS)))
    return fields.distinct(node, "seeds", lambda item, what: fields.integer(item, what, *limits.SEED))


def read_invariants(node: Node | None) -> frozenset[str]:
    """Return the names of the invariants that are switched off."""
    if node is None:
        return frozenset()

    table = fields.table(node, "invariants")
    if not table.entries:
        raise wrong(table.mark, "found an empty mapping; write {name: off}, or leave invariants out")

    for name, entry in table.entries.items():
        if name not in INVARIANTS:
            raise wrong(entry.key.mark, unknown("invariant", name, INVARIANTS))
    return frozenset(name for name, entry in table.entries.items() if not _holds(entry.value, name))


def _holds(node: Node, name: str) -> bool:
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return node.value
    return fields.word(node, name, ("off", "on")) == "on"
