"""Scenario files to scenarios: documents, their cases, and what each world makes of them.

Every mistake is a :class:`ScenarioError` whose lines each start with ``path:line:column: ``, one
for each document that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from dataclasses import fields as parts_of
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from pytest_taskservice.columns import printable
from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.amount import check_amount
from pytest_taskservice.scenario.captured import Cast, Names
from pytest_taskservice.scenario.claims import read_claims
from pytest_taskservice.scenario.config import read_config
from pytest_taskservice.scenario.faults import read_nemesis
from pytest_taskservice.scenario.fill import Filler, case_of, merged, size
from pytest_taskservice.scenario.model import Scenario, Skip
from pytest_taskservice.scenario.nodes import (
    MAX_BYTES,
    Entry,
    Node,
    Scalar,
    Table,
    decode,
    describe,
    documents,
    too_large,
    wrong,
)
from pytest_taskservice.scenario.staging import read_beat, read_invariants, read_seeds, read_workers
from pytest_taskservice.scenario.steps import read_steps
from pytest_taskservice.scenario.tasks import read_tasks
from pytest_taskservice.scenario.words import unknown
from pytest_taskservice.scenario.workflows import read_workflows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["BACKENDS", "OVERRIDE", "SCENARIO", "load", "load_text"]

BACKENDS = ("celery", "celery-sim", "celery-eager", "anyio")

_IDENTITY = ("schema", "name", "description", "tags", "backends", "parameters")
_CAST = ("config", "workers", "tasks", "workflows", "beat")
_STORY = ("seeds", *_CAST, "steps", "faults", "expect", "invariants", "finally")
SCENARIO = (*_IDENTITY, *_STORY, "overrides")
OVERRIDE = (*_STORY, "skip")
_MAX_ROWS = 1000
_MAX_WORK = 2_000_000
_AT_LEAST = 60
"""What a row costs however small its document is, in nodes."""
_MAX_ERRORS = 50
"""Wrong documents after which a file is not read on."""


def load(path: Path, *, shown: str | None = None) -> list[Scenario]:
    """Return the scenarios of a file; ``shown`` is how messages name it."""
    name = printable(shown or str(path)).replace("\n", "\\n")
    start = Mark(path=name, line=1, column=1)
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode):
            raise wrong(start, "found a directory, a pipe or a device; a scenario file is a file")
        with path.open("rb") as file:
            # The size as it was: who writes to it meanwhile has had his say.
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise wrong(start, f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise too_large(max(len(data), found.st_size), name)
    return load_text(data, name)


def load_text(data: bytes | str, path: str) -> list[Scenario]:
    """Return the scenarios of a file's content."""
    text = decode(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"), path)
    found: list[Scenario] = []
    errors: list[str] = []
    file = _File()
    try:
        for root in documents(text, path):
            try:
                found += _document(root, file)
            except ScenarioError as error:
                errors.append(str(error))
                if len(errors) == _MAX_ERRORS:
                    break
    except ScenarioError as error:
        errors.append(str(error))
    if errors:
        raise ScenarioError("\n".join(errors))

    if not found:
        raise wrong(Mark(path=path, line=1, column=1), "found no document; a scenario file has one or more")
    return found


@dataclass(kw_only=True, slots=True)
class _File:
    """What the documents of a file share: their names, and how much may be read anew for parameters."""

    names: dict[str, Mark] = field(default_factory=dict)
    work: int = _MAX_WORK


def _document(root: Node, file: _File) -> list[Scenario]:
    if isinstance(root, Scalar) and root.value is None:
        raise wrong(root.mark, "found an empty document; write a scenario or remove its ---")

    table = fields.table(root, "a scenario")
    fields.known_keys(table, "a scenario", SCENARIO)
    for key in ("schema", "name", "steps", "expect"):
        if key not in table.entries:
            raise wrong(table.mark, f"{key} is missing in this scenario")

    schema = table.entries["schema"].value
    if not isinstance(schema, Scalar) or schema.value != 1 or isinstance(schema.value, bool):
        raise wrong(schema.mark, f"found {describe(schema)}; schema is 1, the only one there is")

    _unique_name(table.entries["name"].value, file.names)
    return list(_cases(table, file))


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


def _cases(table: Table, file: _File) -> Iterator[Scenario]:
    """Yield a scenario for each row of the parameters, or the one there is without."""
    body = replace(table, entries={key: entry for key, entry in table.entries.items() if key != "parameters"})
    parameters = table.get("parameters")
    if parameters is None:
        yield _scenario(_filled(body, Filler({}, where="(this scenario has no parameters)")), "")
        return

    rows = fields.items(parameters, "parameters")
    # Each world that changes something reads it all again.
    work = len(rows) * (1 + _worlds_of(body)) * (_AT_LEAST + size(body))
    if len(rows) > _MAX_ROWS or work > _MAX_WORK:
        raise wrong(parameters.mark, f"found {len(rows)} rows, too many for a document of this size")

    if work > file.work:
        message = f"found {len(rows)} rows, too many beside those of the documents before it"
        raise wrong(parameters.mark, f"{message}: write it into a file of its own")
    file.work -= work

    seen: dict[str, int] = {}
    for number, node in enumerate(rows, start=1):
        row = _row(node)
        case = case_of(row)
        seen[case] = seen.get(case, 0) + 1
        unique = case if seen[case] == 1 else f"{case}-{number}"
        yield _scenario(_filled(body, Filler(row, where=f"in row {number} of parameters")), unique)


def _worlds_of(body: Table) -> int:
    overrides = body.get("overrides")
    return len(overrides.entries) if isinstance(overrides, Table) else 0


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
    backend = fields.word(entry.key, "backend", BACKENDS)
    change = fields.table(entry.value, f"overrides of {backend}")
    fields.known_keys(change, f"overrides of {backend}", OVERRIDE)
    if (skip := change.get("skip")) is not None:
        if len(change.entries) > 1:
            raise wrong(change.mark, "found skip with other keys; a world that is skipped needs none")
        return Skip(reason=fields.text(skip, "skip"))

    if not change.entries:
        raise wrong(change.mark, f"found an empty mapping; allowed: {', '.join(OVERRIDE)}")

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
    cast = _cast(table)
    scenario = Scenario(
        mark=table.mark,
        name=fields.text(name, "name"),
        case=case,
        backends=_backends(table.get("backends")),
        seeds=read_seeds(table.get("seeds")),
        **_plot(table, cast),
        unchecked=read_invariants(table.get("invariants")),
        **{part.name: getattr(cast, part.name) for part in parts_of(cast)},
        **said,
    )
    check_amount(scenario)
    return scenario


def _cast(table: Table) -> Cast:
    tasks, canvases = read_tasks(table.get("tasks"))
    return Cast(
        tasks=tasks,
        canvases=canvases,
        workflows=read_workflows(table.get("workflows"), (*tasks, *canvases)),
        beat=read_beat(table.get("beat"), tasks, canvases),
        config=read_config(table.get("config")),
        workers=read_workers(table.get("workers")),
    )


def _plot(table: Table, cast: Cast) -> dict[str, Any]:
    """Return what happens, and what must come of it."""
    names = Names(cast.beat)
    faults = read_nemesis(table.get("faults"), cast)
    steps = read_steps(table.entries["steps"].value, cast, names)
    breaks = faults is not None
    said: dict[str, Any] = {"faults": faults, "steps": steps}
    said["expect"] = read_claims(table.entries["expect"].value, steps, cast, names, breaks=breaks)
    if (node := table.get("finally")) is not None:
        said["cleanup"] = read_steps(node, cast, names, what="finally")
    return said


def _backends(node: Node | None) -> tuple[str, ...]:
    if node is None:
        return BACKENDS

    found = tuple(fields.word(item, "backend", BACKENDS) for item in fields.items(node, "backends"))
    for index, backend in enumerate(found):
        if backend in found[:index]:
            raise wrong(node.mark, f"found the backend {backend!r} twice")
    return found
