"""Plain data as the text of a scenario file, so that the reader takes every value for what it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_taskservice.scenario.words import format_duration, parse_duration

__all__ = ["spell", "spell_duration"]

_PLAIN = re.compile(r"[A-Za-z0-9_][\w./+-]*(?: [\w(][\w./()+-]*)*", re.ASCII)
_NUMBER = re.compile(r"[-+]?\.?[0-9][0-9._]*(?:[eE][-+]?[0-9]+)?|0[xo][0-9a-fA-F]+")
# Those of YAML 1.1 too: other readers, such as an editor's, still know them.
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_BLOCKS = frozenset({"tasks", "workflows", "beat", "expect", "overrides"})


def spell(document: Mapping[str, Any]) -> str:
    """Return one document: a block for each key, a line for each item."""
    return "".join(f"{line}\n" for key, value in document.items() for line in _block(key, value))


def spell_duration(seconds: float) -> str:
    """Return ``seconds`` with units, so that the very same are read again."""
    short = format_duration(seconds)
    if parse_duration(short) == seconds:
        return short
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _block(key: str, value: Any) -> Iterator[str]:
    if key == "steps" or (key == "finally" and value):
        yield f"{key}:"
        yield from (f"  - {_flow(item)}" for item in value)
    elif key in _BLOCKS and isinstance(value, Mapping):
        yield f"{key}:"
        for name, part in value.items():
            yield from (f"  {line}" for line in _part(key, name, part))
    else:
        yield f"{_text(key)}: {_flow(value)}"


def _part(block: str, name: str, value: Any) -> Iterator[str]:
    if block == "overrides":
        if "skip" not in value:
            yield f"{_text(name)}:"
            yield from (f"  {line}" for key, inner in value.items() for line in _block(key, inner))
            return
    elif isinstance(value, list):
        yield f"{_text(name)}:"
        yield from (f"  - {_flow(item)}" for item in value)
        return
    yield f"{_text(name)}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    # What looks like a parameter was escaped, or it would have been put in.
    escaped = text.replace("${", "$${")
    plain = _PLAIN.fullmatch(escaped) and not _NUMBER.fullmatch(escaped)
    if plain and escaped.lower() not in _WORDS - {"off"}:
        return escaped
    return json.dumps(escaped, ensure_ascii=False)
