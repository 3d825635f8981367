"""What a story has at hand: its parts, and the names that its steps capture."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.model import Config, Workers
from pytest_taskservice.scenario.nodes import Items, Node, describe, wrong
from pytest_taskservice.scenario.words import listed, unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pytest_taskservice.scenario.acts import Mark
    from pytest_taskservice.scenario.model import Canvas, Entry, Task, Workflow

__all__ = ["RESERVED", "Cast", "Kind", "Names"]

RESERVED = {"workers": "what all workers are called in expect", "all": "every fault, in heal"}
_MEMBERS = ".members"
_MEMBERLESS = "only what launches a canvas has members"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """What a document declares before its first step."""

    tasks: Mapping[str, Task] = field(default_factory=dict)
    canvases: Mapping[str, Canvas] = field(default_factory=dict)
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    beat: Mapping[str, Entry] = field(default_factory=dict)
    config: Config = field(default_factory=Config)
    workers: Workers | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """What the story's arithmetic wants besides tasks and config."""
        return {"canvases": self.canvases, "workflows": self.workflows}


class Kind(StrEnum):
    """What a captured name stands for, as messages say it."""

    RUN = "task run"
    MEMBERS = "member of a canvas"
    ENTRY = "beat entry"
    WORKFLOW = "workflow run"
    COMMAND = "command"
    CLIENT = "client"
    FAULT = "fault"
    WORKERS = "group of workers"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Name:
    kind: Kind
    mark: Mark


class Names:
    """The names captured so far, each for one thing."""

    def __init__(self, beat: Mapping[str, Entry]) -> None:
        self._names = {name: _Name(kind=Kind.ENTRY, mark=entry.mark) for name, entry in beat.items()}
        self.away: set[str] = set()
        """The clients that have been cut off by now."""
        self.workflows: dict[str, Workflow] = {}
        """What has been started, by the name of its runs."""

    def copy(self) -> Names:
        """Return the names as they are now."""
        found = Names({})
        found._names = dict(self._names)
        return found

    def take(self, node: Node) -> str:
        """Return a new name."""
        name = fields.name(node, "as")
        if why := RESERVED.get(name):
            raise wrong(node.mark, f"found the name {name!r}, which is {why}; take another one")

        if before := self._names.get(name):
            raise wrong(
                node.mark,
                f"found the name {name!r} again; names are unique, and this one is a {before.kind}'s "
                f"from line {before.mark.line}",
            )
        return name

    def add(self, name: str, kind: Kind, mark: Mark, *, canvas: bool = False) -> None:
        """Capture what the step at ``mark`` makes under ``name``; a ``canvas`` has members too."""
        self._names[name] = _Name(kind=kind, mark=mark)
        if canvas:
            self._names[name + _MEMBERS] = _Name(kind=Kind.MEMBERS, mark=mark)

    def kind(self, name: str) -> Kind:
        """Return what ``name`` stands for."""
        return self._names[name].kind

    def find(self, node: Node, what: str, kinds: Collection[Kind], *, where: str) -> str:
        """Return a name of one of ``kinds``; ``where`` says where it should have been captured."""
        text = fields.text(node, what)
        base = text.removesuffix(_MEMBERS)
        found = self._names.get(text)
        if found is not None and found.kind in kinds:
            return text

        known = sorted(name for name, entry in self._names.items() if entry.kind in kinds)
        if found is None:
            kind = "run" if Kind.RUN in kinds else _either(kinds)
            place = f"({where if base == text else _MEMBERLESS})"
            raise wrong(node.mark, unknown(kind, text, known, where=place))

        message = f"found {describe(node)}, a {found.kind}; {what} names a {_either(kinds)}"
        raise wrong(node.mark, f"{message}; allowed: {listed(known)}")

    def find_all(self, node: Node, what: str, kinds: Collection[Kind], *, where: str) -> tuple[str, ...]:
        """Return one name or a list of them, each given once."""
        if not isinstance(node, Items):
            return (self.find(node, what, kinds, where=where),)
        return fields.distinct(node, what, lambda item, what: self.find(item, what, kinds, where=where))


def _either(kinds: Collection[Kind]) -> str:
    words = [str(kind) for kind in Kind if kind in kinds]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
