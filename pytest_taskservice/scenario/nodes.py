"""YAML text to a tree in which every value knows its place.

Built from the parser's events, not by a YAML constructor: the scalars are those of YAML 1.2's core
schema (``on`` is a word, ``1:00:10`` is text), nothing is expanded, and no depth of nesting can
exhaust a stack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.acts import Mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    import yaml

__all__ = [
    "MAX_BYTES",
    "Entry",
    "Items",
    "Node",
    "Scalar",
    "Table",
    "decode",
    "describe",
    "documents",
    "moved",
    "too_large",
    "wrong",
]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32

_NUMBER = re.compile(r"[-+]?(?:[0-9]+|(?P<real>(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?))")
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
# By name: the classes would have to be imported with yaml, which only reading needs.
_STARTS = ("SequenceStartEvent", "MappingStartEvent")
_ENDS = ("SequenceEndEvent", "MappingEndEvent")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scalar:
    """One value; ``via`` names the parameter that put it there."""

    mark: Mark
    value: str | int | float | bool | None
    via: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """A list."""

    mark: Mark
    items: tuple[Node, ...]
    via: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One key of a mapping, with what it holds."""

    key: Scalar
    value: Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A mapping, by the text of its keys."""

    mark: Mark
    entries: dict[str, Entry]
    via: str = ""

    def get(self, key: str) -> Node | None:
        """Return what ``key`` holds; ``None`` if it is not there."""
        entry = self.entries.get(key)
        return None if entry is None else entry.value


Node: TypeAlias = Scalar | Items | Table


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been read yet."""

    mark: Mark
    is_table: bool
    children: list[Node]


def wrong(mark: Mark, message: str) -> ScenarioError:
    """Return the error that ``message`` is about what stands at ``mark``."""
    return ScenarioError(f"{mark}: {message}")


def describe(node: Node) -> str:
    """Return what a message says was found."""
    suffix = f" (from parameter {node.via!r})" if node.via else ""
    if not isinstance(node, Scalar):
        return f"a {'list' if isinstance(node, Items) else 'mapping'}{suffix}"

    if node.value is None:
        return f"nothing{suffix}"

    # As the file spells it, not as Python does.
    text = str(node.value).lower() if isinstance(node.value, bool) else repr(node.value)
    return f"{text if len(text) <= 60 else text[:60] + '...'}{suffix}"


def moved(node: Node, mark: Mark, via: str) -> Node:
    """Return ``node`` as if parameter ``via`` had put it at ``mark``."""
    return replace(node, mark=mark, via=via)


def too_large(size: int, path: str) -> ScenarioError:
    """Return the error of a file of so many bytes."""
    start = Mark(path=path, line=1, column=1)
    return wrong(start, f"found {size} bytes; a scenario file has at most {MAX_BYTES}")


def decode(data: bytes, path: str) -> str:
    """Return the text of a file, or say at which place it is none."""
    if len(data) > MAX_BYTES:
        raise too_large(len(data), path)

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig", errors="replace")
        byte = error.object[error.start]
        raise wrong(_end_of(before, path), f"found byte 0x{byte:02x}; a file is UTF-8") from error

    if bad := _UNPRINTABLE.search(text):
        mark = _end_of(text[: bad.start()], path)
        raise wrong(mark, f"found the control character {bad.group()!r}; a file is printable text")
    return text


def documents(text: str, path: str) -> Iterator[Node]:
    """Yield the tree of each document of ``text``."""
    import yaml

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    builder = _Builder(path)
    try:
        for event in yaml.parse(text, Loader=loader):
            yield from builder.feed(event)
    except ScenarioError:
        raise
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, path) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise wrong(Mark(path=path, line=1, column=1), f"found no YAML: {error}") from error


class _Builder:
    """Puts parser events together to documents."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: list[_Open] = []

    def feed(self, event: yaml.Event) -> Iterator[Node]:
        """Take in one event; yield the document that it completes."""
        kind = type(event).__name__
        if kind == "ScalarEvent":
            mark = self._plain_mark(event)
            yield from self._close(Scalar(mark=mark, value=_scalar(event, mark)))
        elif kind in _STARTS:
            mark = self._plain_mark(event)
            if len(self._open) == MAX_DEPTH:
                raise wrong(mark, f"found more than {MAX_DEPTH} values nested; flatten the document")
            self._open.append(_Open(mark=mark, is_table=kind == "MappingStartEvent", children=[]))
        elif kind in _ENDS:
            done = self._open.pop()
            items = tuple(done.children)
            yield from self._close(_table(done) if done.is_table else Items(mark=done.mark, items=items))
        elif kind == "AliasEvent":
            name = getattr(event, "anchor", "")
            mark = self._mark(event)
            raise wrong(mark, f"found the alias *{name}; write the value out: files have no aliases")

    def _close(self, node: Node) -> Iterator[Node]:
        if self._open:
            self._open[-1].children.append(node)
        else:
            yield node

    def _plain_mark(self, event: Any) -> Mark:
        """Return where ``event`` stands, or raise at what decorates it."""
        mark = self._mark(event)
        if event.anchor is not None or event.tag is not None:
            _refuse_decoration(event, mark)
        return mark

    def _mark(self, event: yaml.Event) -> Mark:
        start: Any = event.start_mark
        return Mark(path=self._path, line=start.line + 1, column=start.column + 1)


def _table(done: _Open) -> Table:
    entries: dict[str, Entry] = {}
    pairs = zip(done.children[::2], done.children[1::2], strict=True)
    for key, value in pairs:
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            raise wrong(key.mark, f"found {describe(key)} as a key; keys are text, quote it")
        if key.value in entries:
            first = entries[key.value].key.mark.line
            raise wrong(key.mark, f"found the key {key.value!r} again; it stands in line {first} already")
        entries[key.value] = Entry(key=key, value=value)
    return Table(mark=done.mark, entries=entries)


def _scalar(event: Any, mark: Mark) -> str | int | float | bool | None:
    text = str(event.value)
    if event.style:
        if bad := _UNPRINTABLE.search(text):
            raise wrong(mark, f"found {bad.group()!r} in a text; only printable characters are allowed")
        return text

    if text in _WORDS:
        return _WORDS[text]

    match = _NUMBER.fullmatch(text)
    if match is None:
        return text

    if len(text) > 30 or abs(float(text)) > 1e18:
        raise wrong(mark, f"found the number {text[:30]}; numbers are between -1e18 and 1e18")
    return int(text) if match["real"] is None else float(text)


def _refuse_decoration(event: Any, mark: Mark) -> NoReturn:
    if event.anchor is not None:
        raise wrong(mark, f"found the anchor &{event.anchor}; write the value out: files have no aliases")
    raise wrong(mark, f"found the tag {str(event.tag)[:60]!r}; write the value without a tag")


def _syntax_error(error: yaml.MarkedYAMLError, text: str, path: str) -> ScenarioError:
    place: Any = error.problem_mark or error.context_mark
    if place is None:
        return wrong(Mark(path=path, line=1, column=1), f"found no YAML: {error.problem}")

    mark = Mark(path=path, line=place.line + 1, column=place.column + 1)
    lines = text.split("\n")
    if place.line < len(lines) and lines[place.line][place.column : place.column + 1] == "\t":
        return wrong(mark, "found a tab; indent with spaces")

    context = f" {error.context}" if error.context else ""
    unquoted = place.line < len(lines) and "${" in lines[place.line]
    hint = '; within { } and [ ] a parameter is quoted: "${x}"' if unquoted else ""
    return wrong(mark, f"found no YAML: {error.problem}{context}{hint}")


def _end_of(before: str, path: str) -> Mark:
    """Return the place behind ``before``."""
    line = before.count("\n") + 1
    return Mark(path=path, line=line, column=len(before) - before.rfind("\n"))
