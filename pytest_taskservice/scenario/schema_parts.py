"""The pieces of the JSON Schema: values as a scenario file spells them, each of which may be ``${x}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = [
    "PLACE",
    "Schema",
    "any_key",
    "any_step",
    "anything",
    "duration",
    "either",
    "flag",
    "items",
    "mapping",
    "name",
    "named",
    "number",
    "partial",
    "refer",
    "text",
    "whole",
    "word",
]

Schema: TypeAlias = dict[str, Any]

PLACE = r"\$\{"
_PARAMETER = {"type": "string", "pattern": PLACE}
_DURATION = r"^(?=[0-9])([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?([0-9.]+ms)?$"
_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,59}(\.members)?$"


def refer(part: str) -> Schema:
    """Return a reference to one of the schema's definitions."""
    return {"$ref": f"#/definitions/{part}"}


def anything(doc: str) -> Schema:
    """Return the schema of any JSON value."""
    return {"description": doc}


def text(doc: str, *examples: str, pattern: str = "") -> Schema:
    """Return the schema of a text that is not empty."""
    found: Schema = {"description": doc, "type": "string", "minLength": 1}
    return _with(found, examples=list(examples), pattern=f"{pattern}|{PLACE}" if pattern else "")


def name(doc: str, *examples: str) -> Schema:
    """Return the schema of a name."""
    return text(doc, *examples, pattern=_NAME)


def duration(doc: str, *examples: str) -> Schema:
    """Return the schema of a time with its unit."""
    return text(doc, *(examples or ("500ms", "1.5m", "1h30m")), pattern=_DURATION)


def word(doc: str, words: Sequence[str]) -> Schema:
    """Return the schema of one of ``words``."""
    return either(doc, {"enum": [str(each) for each in words]}, _PARAMETER)


def whole(doc: str, bounds: tuple[int, int]) -> Schema:
    """Return the schema of a whole number."""
    low, high = bounds
    return either(doc, {"type": "integer", "minimum": low, "maximum": high}, _PARAMETER)


def number(doc: str, bounds: tuple[int, int]) -> Schema:
    """Return the schema of a number."""
    low, high = bounds
    return either(doc, {"type": "number", "minimum": low, "maximum": high}, _PARAMETER)


def flag(doc: str) -> Schema:
    """Return the schema of true or false."""
    return either(doc, {"type": "boolean"}, _PARAMETER)


def items(doc: str, each: Schema, *, least: int = 1, unique: bool = False) -> Schema:
    """Return the schema of a list."""
    found = {"type": "array", "items": each, "minItems": least}
    return either(doc, _with(found, uniqueItems=unique), _PARAMETER)


def either(doc: str, *choices: Schema) -> Schema:
    """Return the schema of what fits one of ``choices``."""
    return {"description": doc, "anyOf": list(choices)}


def named(doc: str, each: Schema) -> Schema:
    """Return the schema of a mapping from names to things of one kind."""
    return {
        "description": doc,
        "type": "object",
        "propertyNames": {"pattern": f"{_NAME}|{PLACE}"},
        "additionalProperties": each,
    }


def mapping(
    doc: str, keys: Collection[str], parts: Mapping[str, Schema], *, needs: Sequence[str] = (), least: int = 1
) -> Schema:
    """Return the schema of a mapping that has ``keys`` and no others; each has to be among ``parts``."""
    found: Schema = {
        "description": doc,
        "type": "object",
        "properties": {key: parts[key] for key in keys},
        # A parameter may stand for a key, too.
        "patternProperties": {PLACE: True},
        "additionalProperties": False,
        "minProperties": least,
    }
    return _with(found, required=list(needs))


def partial(schema: Schema) -> Schema:
    """Return ``schema`` for a change that is merged over a whole: nothing is required."""
    left = {key: value for key, value in schema.items() if key not in ("required", "oneOf", "minProperties")}
    return {**left, "anyOf": [partial(each) for each in schema["anyOf"]]} if "anyOf" in schema else left


def any_step(kinds: Mapping[str, tuple[str, ...]]) -> Schema:
    """Return the schema of a step whose kind is a parameter: '${command}': run."""
    keys = dict.fromkeys(key for allowed in kinds.values() for key in allowed)
    closed = {"type": "object", "properties": dict.fromkeys(keys, True), "patternProperties": {PLACE: True}}
    return {**closed, "additionalProperties": False, **any_key()}


def any_key() -> Schema:
    """Return the schema of a mapping with a parameter for one of its keys."""
    return {"not": {"propertyNames": {"not": {"pattern": PLACE}}}}


def _with(schema: Schema, **more: Any) -> Schema:
    return {**schema, **{key: value for key, value in more.items() if value}}
