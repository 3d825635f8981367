"""Payloads: what may travel between processes as an argument or a result.

The same on every back end: JSON, and the few types Celery's JSON carries besides. A value comes out
as it would at the other end: a tuple as a list, a key of a dict as a string.
"""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal
from json import dumps
from typing import TYPE_CHECKING, Any
from uuid import UUID

from taskservice.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["wire_arguments", "wire_value"]

_PLAIN = frozenset({str, int, float, bool, type(None)})
_CARRIED = (bytes, date, time, Decimal, UUID)


def wire_value(value: Any, where: str) -> Any:
    """Return ``value`` as the other end would get it, or raise `PayloadError` about ``where``."""
    try:
        return _copy(value)
    except _NotJsonError as found:
        raise PayloadError(where + found.path, found.type_name) from None
    except RecursionError:
        raise PayloadError(where, "a value that contains itself") from None


def wire_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str] = ()
) -> tuple[list[Any], dict[str, Any]]:
    """Return both as the other end would get them; ``names`` are those of the positional ones."""
    positional = [
        wire_value(value, f"argument {names[index]!r}" if index < len(names) else f"argument {index}")
        for index, value in enumerate(args)
    ]
    return positional, {key: wire_value(kwargs[key], f"argument {key!r}") for key in kwargs}


class _NotJsonError(Exception):
    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.type_name = type_name
        self.path = ""


def _copy(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value

    if isinstance(value, list | tuple):
        return [_copy_at(index, item) for index, item in enumerate(value)]

    if isinstance(value, dict):
        return {_key(key): _copy_at(key, item) for key, item in value.items()}

    return _copy_scalar(value)


def _copy_at(place: object, item: Any) -> Any:
    if type(item) in _PLAIN:
        return item

    try:
        return _copy(item)
    except _NotJsonError as found:
        found.path = f"[{place!r}]{found.path}"
        raise


def _copy_scalar(value: Any) -> Any:
    # Subclasses, an IntEnum for one, arrive as what they are at heart.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, _CARRIED):
        return value

    as_json = getattr(value, "__json__", None)
    if as_json is None or isinstance(value, type):
        raise _NotJsonError(_type_name(value))

    return _copy(as_json())


def _key(key: object) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int | float):
        return dumps(int(key) if isinstance(key, int) else float(key))

    raise _NotJsonError(f"a dict with keys of type {_type_name(key)}")


def _type_name(value: object) -> str:
    found = type(value)
    return (
        found.__qualname__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__qualname__}"
    )
