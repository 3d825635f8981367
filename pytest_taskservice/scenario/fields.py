"""Reading single values off a tree: what the caller asked for, or an error where it stands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_taskservice.scenario.limits import PARTS
from pytest_taskservice.scenario.nodes import Entry, Items, Node, Scalar, Table, describe, wrong
from pytest_taskservice.scenario.words import DURATION, parse_duration, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "action",
    "boolean",
    "distinct",
    "duration",
    "integer",
    "is_duration",
    "items",
    "known_keys",
    "looks_timed",
    "name",
    "number",
    "parts",
    "plain",
    "some_time",
    "table",
    "text",
    "word",
]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,59}")


def table(node: Node, what: str) -> Table:
    """Return ``node`` as a mapping."""
    if not isinstance(node, Table):
        raise wrong(node.mark, f"found {describe(node)}; {what} is a mapping of keys to values")
    return node


def items(node: Node, what: str, *, most: int = 100_000) -> tuple[Node, ...]:
    """Return the items of a list that is not empty, ``most`` of them at most."""
    if not isinstance(node, Items):
        raise wrong(node.mark, f"found {describe(node)}; {what} is a list")

    if not node.items:
        raise wrong(node.mark, f"found an empty list; {what} has at least one item")

    if len(node.items) > most:
        raise wrong(node.mark, f"found {len(node.items)} items; {what} has at most {most}")
    return node.items


def parts(node: Node, what: str) -> dict[str, Entry]:
    """Return the entries of a mapping from names to parts of a scenario."""
    entries = table(node, what).entries
    if len(entries) > PARTS[1]:
        raise wrong(node.mark, f"found {len(entries)} {what}; a scenario has at most {PARTS[1]}")
    return entries


def distinct(node: Node, what: str, reader: Callable[[Node, str], T]) -> tuple[T, ...]:
    """Return the items of a list, each read by ``reader``, or raise at one that comes again."""
    found: list[T] = []
    seen: set[T] = set()
    for item in items(node, what):
        value = reader(item, what)
        if value in seen:
            raise wrong(item.mark, f"found {describe(item)} again in {what}")
        seen.add(value)
        found.append(value)
    return tuple(found)


def known_keys(node: Table, what: str, allowed: Sequence[str]) -> None:
    """Raise at the first key that is not ``allowed``."""
    for key, entry in node.entries.items():
        if key not in allowed:
            raise wrong(entry.key.mark, unknown("key", key, allowed, where=f"in {what}"))


def action(node: Table, what: str, keys: Mapping[str, Sequence[str]]) -> str:
    """Return the one key of ``node`` that says what is done; ``keys`` holds the keys allowed beside each."""
    found = [key for key in node.entries if key in keys]
    if len(found) != 1:
        every = tuple(dict.fromkeys(key for allowed in keys.values() for key in allowed))
        known_keys(node, what, every)
        problem = f"found {' and '.join(found)} in one step" if found else f"{what} does nothing"
        raise wrong(node.mark, f"{problem}; {what} does one of: {', '.join(keys)}")

    article = "an" if found[0][0] in "aeiou" else "a"
    known_keys(node, f"{article} {found[0]} step", keys[found[0]])
    return found[0]


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


def word(node: Node, what: str, allowed: Sequence[str], *, where: str = "") -> str:
    """Return one of the ``allowed`` words; ``where`` follows a wrong one."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise wrong(node.mark, f"found {describe(node)}; {what} is one of: {', '.join(allowed)}")

    if node.value not in allowed:
        via = f" (from parameter {node.via!r})" if node.via else ""
        raise wrong(node.mark, f"{unknown(what, node.value, allowed, where=where)}{via}")
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


def is_duration(text: str) -> bool:
    """Tell whether ``text`` is a duration."""
    try:
        parse_duration(text)
    except ValueError:
        return False
    return True


def looks_timed(node: Node) -> bool:
    """Tell whether ``node`` was meant to be a duration, right or wrong: no name begins so."""
    return isinstance(node, Scalar) and bool(re.match(r"[-+.\d]|None", str(node.value)))


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
