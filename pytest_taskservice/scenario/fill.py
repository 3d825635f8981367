"""What ``${x}`` becomes and what a world changes, on the tree of a document."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_taskservice.scenario.nodes import Entry, Items, Node, Scalar, Table, moved, wrong
from pytest_taskservice.scenario.words import unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.scenario.acts import Mark

__all__ = ["Filler", "case_of", "merged", "size"]

MAX_FILLED = 1_000_000

_PLACE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_UNSAFE = re.compile(r"[^\w.+=-]+")


class Filler:
    """Puts the values of one row of parameters into trees.

    ``$${`` stands for a literal ``${``. The amount put in is bounded: a few long values, each named
    many times, would otherwise grow beyond any memory.
    """

    def __init__(self, row: Mapping[str, Node], *, where: str) -> None:
        self._row = row
        self._where = where
        self._sizes = {name: size(node) for name, node in row.items()}
        self._left = MAX_FILLED

    def fill(self, node: Node) -> Node:
        """Return ``node`` with every ``${x}`` replaced."""
        match node:
            case Items():
                return Items(mark=node.mark, items=tuple(map(self.fill, node.items)), via=node.via)
            case Table():
                return Table(mark=node.mark, entries=self._entries(node), via=node.via)
            case Scalar(value=str(text)) if "$" in text:
                return self._scalar(node, text)
        return node

    def _entries(self, table: Table) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for entry in table.entries.values():
            key = self.fill(entry.key)
            if not isinstance(key, Scalar) or not isinstance(key.value, str):
                raise wrong(key.mark, f"a parameter put in as a key must be text, {key.via!r} is not")
            if key.value in entries:
                raise wrong(key.mark, f"found the key {key.value!r} again, from parameter {key.via!r}")
            entries[key.value] = Entry(key=key, value=self.fill(entry.value))
        return entries

    def _scalar(self, node: Scalar, text: str) -> Node:
        whole = _PLACE.fullmatch(text)
        if whole and whole[1] is not None:
            return moved(self._value(whole[1], node.mark), node.mark, whole[1])

        used: list[str] = []

        def put(match: re.Match[str]) -> str:
            if match[1] is None:
                return "${"
            used.append(match[1])
            return self._text(match[1], node.mark)

        return replace(node, value=_PLACE.sub(put, text), via=", ".join(dict.fromkeys(used)))

    def _value(self, name: str, mark: Mark) -> Node:
        if name not in self._row:
            raise wrong(mark, unknown("parameter", name, self._row, where=self._where))

        self._left -= self._sizes[name]
        if self._left < 0:
            raise wrong(mark, f"parameters put in more than {MAX_FILLED} characters; use shorter ones")
        return self._row[name]

    def _text(self, name: str, mark: Mark) -> str:
        value = self._value(name, mark)
        if not isinstance(value, Scalar):
            raise wrong(mark, f"parameter {name!r} is no single value and cannot stand within a text")
        return _spelled(value)


def size(node: Node) -> int:
    """Return how much a tree holds: its values and the characters of its texts."""
    match node:
        case Items():
            return 1 + sum(map(size, node.items))
        case Table():
            return 1 + sum(len(key) + size(entry.value) for key, entry in node.entries.items())
        case Scalar(value=str(text)):
            return 1 + len(text)
    return 1


def merged(base: Table, change: Table) -> Table:
    """Return ``base`` with ``change`` over it: mappings are merged, all else is replaced."""
    entries = dict(base.entries)
    for key, entry in change.entries.items():
        old, new = base.get(key), entry.value
        both = isinstance(old, Table) and isinstance(new, Table)
        if both and isinstance(new, Table) and not new.entries:
            raise wrong(new.mark, f"found an empty mapping, which changes nothing: {key} is merged")
        value = merged(old, new) if isinstance(old, Table) and isinstance(new, Table) else new
        entries[key] = replace(entry, value=value) if both else entry
    return replace(base, entries=entries)


def case_of(row: Mapping[str, Node]) -> str:
    """Return the words of a test id for one row."""
    words = [
        _UNSAFE.sub("_", _spelled(node))[:30] if isinstance(node, Scalar) else key
        for key, node in row.items()
    ]
    return "-".join(words)[:100]


def _spelled(node: Scalar) -> str:
    """Return a value as a file spells it."""
    if node.value is None:
        return "null"
    return str(node.value).lower() if isinstance(node.value, bool) else str(node.value)
