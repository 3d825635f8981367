"""Scenario files to scenarios: documents, their cases, and what each world makes of them.

Every mistake is a :class:`ScenarioError` whose lines each start with ``path:line:column: ``, one
for each document that is wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import Launch, Mark
from pytest_taskservice.scenario.claims import read_claims
from pytest_taskservice.scenario.fill import Filler, case_of, merged, size
from pytest_taskservice.scenario.model import Scenario, Skip
from pytest_taskservice.scenario.nodes import (
    Entry,
    Node,
    Scalar,
    Table,
    decode,
    describe,
    documents,
    wrong,
)
from pytest_taskservice.scenario.steps import read_steps
from pytest_taskservice.scenario.tasks import read_config, read_tasks
from pytest_taskservice.scenario.words import unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["ANNOUNCED_BACKENDS", "BACKENDS", "load", "load_text"]

BACKENDS = ("celery", "celery-eager", "anyio")
ANNOUNCED_BACKENDS = ("celery-sim",)

_IDENTITY = ("schema", "name", "description", "tags", "backends", "parameters")
_STORY = ("config", "tasks", "steps", "expect", "finally")
_LATER = {
    "seeds": "seeds",
    "workers": "workers",
    "workflows": "workflows",
    "faults": "faults",
    "invariants": "invariants that are switched off",
}
_MAX_ROWS = 1000
_MAX_WORK = 2_000_000


def load(path: Path, *, shown: str | None = None) -> list[Scenario]:
    """Return the scenarios of a file; ``shown`` is how messages name it."""
    return load_text(path.read_bytes(), shown or str(path))


def load_text(data: bytes | str, path: str) -> list[Scenario]:
    """Return the scenarios of a file's content."""
    text = decode(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"), path)
    found: list[Scenario] = []
    errors: list[str] = []
    names: dict[str, Mark] = {}
    try:
        for root in documents(text, path):
            try:
                found += _document(root, names)
            except ScenarioError as error:
                errors.append(str(error))
    except ScenarioError as error:
        errors.append(str(error))
    if errors:
        raise ScenarioError("\n".join(errors))

    if not found:
        raise wrong(Mark(path=path, line=1, column=1), "found no document; a scenario file has one or more")
    return found


def _document(root: Node, names: dict[str, Mark]) -> list[Scenario]:
    if isinstance(root, Scalar) and root.value is None:
        raise wrong(root.mark, "found an empty document; write a scenario or remove its ---")

    table = fields.table(root, "a scenario")
    fields.known_keys(table, "a scenario", (*_IDENTITY, *_STORY, "overrides"), _LATER)
    for key in ("schema", "name", "steps", "expect"):
        if key not in table.entries:
            raise wrong(table.mark, f"{key} is missing in this scenario")

    schema = table.entries["schema"].value
    if not isinstance(schema, Scalar) or schema.value != 1 or isinstance(schema.value, bool):
        raise wrong(schema.mark, f"found {describe(schema)}; schema is 1, the only one there is")

    _unique_name(table.entries["name"].value, names)
    return list(_cases(table))


def _unique_name(node: Node, names: dict[str, Mark]) -> None:
    name = fields.text(node, "name")
    # The name is part of a test id, where these two mean something else.
    if "::" in name or len(name) > 200:
        raise wrong(node.mark, f"found {describe(node)}; name has no '::' and at most 200 characters")

    if name in names:
        raise wrong(
            node.mark,
            f"found the name {name!r} again; it stands in line {names[name].line} already",
        )
    names[name] = node.mark


def _cases(table: Table) -> Iterator[Scenario]:
    """Yield a scenario for each row of the parameters, or the one there is without."""
    body = replace(table, entries={key: entry for key, entry in table.entries.items() if key != "parameters"})
    parameters = table.get("parameters")
    if parameters is None:
        yield _scenario(_filled(body, Filler({}, where="(this scenario has no parameters)")), "")
        return

    rows = fields.items(parameters, "parameters")
    if len(rows) > _MAX_ROWS or len(rows) * size(body) > _MAX_WORK:
        raise wrong(parameters.mark, f"found {len(rows)} rows, too many for a document of this size")

    seen: dict[str, int] = {}
    for number, node in enumerate(rows, start=1):
        row = _row(node)
        case = case_of(row)
        seen[case] = seen.get(case, 0) + 1
        unique = case if seen[case] == 1 else f"{case}-{number}"
        yield _scenario(_filled(body, Filler(row, where=f"in row {number} of parameters")), unique)


def _row(node: Node) -> Mapping[str, Node]:
    table = fields.table(node, "a row of parameters")
    if not table.entries:
        raise wrong(table.mark, "found an empty row of parameters; write {name: value}")

    for entry in table.entries.values():
        fields.name(entry.key, "a parameter")
        # An escaped place would lose its escape, a real one could name itself.
        if "${" in str(fields.plain(entry.value)):
            raise wrong(entry.value.mark, "found ${ in a parameter; parameters are not put into parameters")
    return {key: entry.value for key, entry in table.entries.items()}


def _filled(body: Table, filler: Filler) -> Table:
    return fields.table(filler.fill(body), "a scenario")


def _scenario(table: Table, case: str) -> Scenario:
    base = _base(table, case)
    overrides = table.get("overrides")
    if overrides is None:
        return base

    worlds: dict[str, Scenario | Skip] = {}
    for backend, entry in fields.table(overrides, "overrides").entries.items():
        worlds[backend] = _world(table, base, entry)
    return replace(base, worlds=worlds)


def _world(table: Table, base: Scenario, entry: Entry) -> Scenario | Skip:
    """Return what one entry of ``overrides`` makes of a scenario."""
    backend = fields.word(entry.key, "backend", (*BACKENDS, *ANNOUNCED_BACKENDS))
    change = fields.table(entry.value, f"overrides of {backend}")
    fields.known_keys(change, f"overrides of {backend}", (*_STORY, "skip"), _LATER)
    if (skip := change.get("skip")) is not None:
        if len(change.entries) > 1:
            raise wrong(change.mark, "found skip with other keys; a world that is skipped needs none")
        return Skip(reason=fields.text(skip, "skip"))

    if not change.entries:
        raise wrong(change.mark, f"found an empty mapping; allowed: {', '.join((*_STORY, 'skip'))}")

    if backend not in base.backends:
        message = unknown("backend", backend, base.backends, where="among backends")
        raise wrong(entry.key.mark, message)
    return _base(merged(table, change), base.case)


def _base(table: Table, case: str) -> Scenario:
    said: dict[str, Any] = {}
    name = table.entries["name"].value
    if (node := table.get("description")) is not None:
        said["description"] = fields.text(node, "description", lines=True)
    if (node := table.get("tags")) is not None:
        said["tags"] = tuple(fields.name(item, "a tag") for item in fields.items(node, "tags"))
    tasks, config = read_tasks(table.get("tasks")), read_config(table.get("config"))
    steps = read_steps(table.entries["steps"].value, tasks, config)
    expect = read_claims(table.entries["expect"].value, steps, tasks, config)
    if (node := table.get("finally")) is not None:
        captured = {step.name for step in steps if isinstance(step, Launch) and step.name}
        said["cleanup"] = read_steps(node, tasks, config, what="finally", captured=captured)
    return Scenario(
        mark=table.mark,
        name=fields.text(name, "name"),
        case=case,
        backends=_backends(table.get("backends")),
        config=config,
        tasks=tasks,
        steps=steps,
        expect=expect,
        **said,
    )


def _backends(node: Node | None) -> tuple[str, ...]:
    known = (*BACKENDS, *ANNOUNCED_BACKENDS)
    if node is None:
        return known

    found = tuple(fields.word(item, "backend", known) for item in fields.items(node, "backends"))
    for index, backend in enumerate(found):
        if backend in found[:index]:
            raise wrong(node.mark, f"found the backend {backend!r} twice")
    return found
