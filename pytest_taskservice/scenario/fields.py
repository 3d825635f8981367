"""Reading single values off a tree: what the caller asked for, or an error where it stands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario.nodes import Items, Node, Scalar, Table, describe, wrong
from pytest_taskservice.scenario.words import DURATION, parse_duration, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "boolean",
    "duration",
    "integer",
    "items",
    "known_keys",
    "name",
    "names",
    "number",
    "plain",
    "some_time",
    "table",
    "text",
    "word",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,59}")


def table(node: Node, what: str) -> Table:
    """Return ``node`` as a mapping."""
    if not isinstance(node, Table):
        raise wrong(node.mark, f"found {describe(node)}; {what} is a mapping of keys to values")
    return node


def items(node: Node, what: str) -> tuple[Node, ...]:
    """Return the items of a list that is not empty."""
    if not isinstance(node, Items):
        raise wrong(node.mark, f"found {describe(node)}; {what} is a list")

    if not node.items:
        raise wrong(node.mark, f"found an empty list; {what} has at least one item")
    return node.items


def known_keys(
    node: Table, what: str, allowed: Sequence[str], later: Mapping[str, str] | None = None
) -> None:
    """Raise at the first key that is not ``allowed``; ``later`` tells what planned ones are."""
    for key, entry in node.entries.items():
        if later and key in later:
            raise wrong(
                entry.key.mark,
                f"found {key!r}: this version does not play {later[key]} yet; allowed: {', '.join(allowed)}",
            )
        if key not in allowed:
            raise wrong(entry.key.mark, unknown("key", key, allowed, where=f"in {what}"))


def text(node: Node, what: str, *, lines: bool = False) -> str:
    """Return a text that is not blank; of one line unless ``lines`` are allowed."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        hint = " (quote it)" if isinstance(node, Scalar) and node.value is not None else ""
        raise wrong(node.mark, f"found {describe(node)}; {what} is a text{hint}")

    if not node.value.strip():
        raise wrong(node.mark, f"found a blank text; {what} is a text")

    if not lines and not node.value.isprintable():
        raise wrong(node.mark, f"found {describe(node)}; {what} is a text of one line")
    return node.value


def name(node: Node, what: str) -> str:
    """Return a name; unlike a duration it begins with no digit."""
    found = text(node, what)
    if not _NAME.fullmatch(found):
        raise wrong(
            node.mark,
            f"found {describe(node)}; {what} is a name: letters, digits, _ and -, beginning with a letter",
        )
    return found


def names(node: Node, what: str) -> tuple[str, ...]:
    """Return one name or a list of them."""
    if isinstance(node, Items):
        return tuple(name(item, what) for item in items(node, what))
    return (name(node, what),)


def word(node: Node, what: str, allowed: Sequence[str]) -> str:
    """Return one of the ``allowed`` words."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise wrong(node.mark, f"found {describe(node)}; {what} is one of: {', '.join(allowed)}")

    if node.value not in allowed:
        via = f" (from parameter {node.via!r})" if node.via else ""
        raise wrong(node.mark, f"{unknown(what, node.value, allowed)}{via}")
    return node.value


def boolean(node: Node, what: str) -> bool:
    """Return true or false."""
    if not isinstance(node, Scalar) or not isinstance(node.value, bool):
        raise wrong(node.mark, f"found {describe(node)}; {what} is true or false")
    return node.value


def integer(node: Node, what: str, low: int, high: int) -> int:
    """Return a whole number between ``low`` and ``high``, both allowed."""
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(node.mark, f"found {describe(node)}; {what} is a whole number from {low} to {high}")
    return value


def number(node: Node, what: str, low: float, high: float) -> float:
    """Return a number between ``low`` and ``high``, both allowed."""
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise wrong(node.mark, f"found {describe(node)}; {what} is a number from {low:g} to {high:g}")
    return float(value)


def duration(node: Node, what: str) -> float:
    """Return seconds."""
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        near = f"; did you mean '{value}s'?" if value >= 0 else ""
        raise wrong(node.mark, f"found {describe(node)} without a unit; {what} is {DURATION}{near}")

    if not isinstance(value, str):
        raise wrong(node.mark, f"found {describe(node)}; {what} is {DURATION}")

    try:
        return parse_duration(value)
    except ValueError as error:
        raise wrong(node.mark, f"found {describe(node)}, which {error}; {what} is {DURATION}") from error


def some_time(node: Node, what: str) -> float:
    """Return seconds, more than none."""
    seconds = duration(node, what)
    if seconds == 0:
        raise wrong(node.mark, f"found {describe(node)}; {what} is longer than nothing")
    return seconds


def plain(node: Node) -> Any:
    """Return a tree as JSON data."""
    match node:
        case Items():
            return [plain(item) for item in node.items]
        case Table():
            return {key: plain(entry.value) for key, entry in node.entries.items()}
    return node.value
