"""Payloads: what may travel between processes as an argument or a result.

The same on every back end: JSON, and the few types Celery's JSON carries besides. A value comes out
as it would at the other end: a tuple as a list, a key of a dict as a string.
"""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal
from json import dumps
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from taskservice.errors import PayloadError, PayloadSizeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PAYLOAD_LIMIT", "wire_arguments", "wire_value"]

PAYLOAD_LIMIT: Final = 10_000_000
"""The most bytes that arguments, or a result, may have as JSON."""
_NUMBERS = frozenset({int, float, bool, type(None)})
_CARRIED = (bytes, date, time, Decimal, UUID)


def wire_value(value: Any, where: str, *, limit: int = PAYLOAD_LIMIT) -> Any:
    """Return ``value`` as the other end would get it.

    Raises `PayloadError` about ``where``, and `PayloadSizeError` for what is surely longer than
    ``limit``: it counts no quotes and no escapes, so a little more may pass.
    """
    return _Copier(limit).copy(value, where)


def wire_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str] = (), *, limit: int = PAYLOAD_LIMIT
) -> tuple[list[Any], dict[str, Any]]:
    """Return both as the other end would get them; ``names`` are those of the positional ones.

    Together they may have ``limit`` bytes; for the errors see `wire_value`.
    """
    copier = _Copier(limit)
    positional = [
        copier.copy(value, f"argument {names[index]!r}" if index < len(names) else f"argument {index}")
        for index, value in enumerate(args)
    ]
    return positional, {key: copier.copy(kwargs[key], f"argument {key!r}") for key in kwargs}


class _NotJsonError(Exception):
    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.type_name = type_name
        self.path = ""


class _TooLongError(Exception):
    """More than is left of the limit."""


class _Copier:
    """Copies values until they are too long together."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def copy(self, value: Any, where: str) -> Any:
        if type(value) in _NUMBERS:
            return value

        try:
            return self._copy(value)
        except _NotJsonError as found:
            raise PayloadError(where + found.path, found.type_name) from None
        except _TooLongError:
            raise PayloadSizeError(where, self._limit) from None
        except RecursionError:
            raise PayloadError(where, "a value that contains itself") from None

    def _copy(self, value: Any) -> Any:
        if type(value) is str:
            self._count(len(value))
            return value

        # Each item is a digit and a comma at least.
        if isinstance(value, list | tuple):
            self._count(2 * len(value))
            return [self._copy_at(index, item) for index, item in enumerate(value)]
        if isinstance(value, dict):
            self._count(5 * len(value))
            return {_key(key): self._copy_at(key, item) for key, item in value.items()}

        return self._copy_scalar(value)

    def _copy_at(self, place: object, item: Any) -> Any:
        if type(item) in _NUMBERS:
            return item

        try:
            return self._copy(item)
        except _NotJsonError as found:
            found.path = f"[{place!r}]{found.path}"
            raise

    def _count(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise _TooLongError

    def _copy_scalar(self, value: Any) -> Any:
        # Subclasses, an IntEnum for one, arrive as what they are at heart.
        if isinstance(value, str):
            self._count(len(value))
            return str.__str__(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, _CARRIED):
            self._count(len(value) if isinstance(value, bytes) else 0)
            return value

        as_json = getattr(value, "__json__", None)
        if as_json is None or isinstance(value, type):
            raise _NotJsonError(_type_name(value))

        return self._copy(as_json())


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
