"""Texts of errors and values that are somebody else's, whose ``__str__`` may raise anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["text_of"]


def text_of(value: object, tell: Callable[[object], str] = str) -> str:
    """Return what ``tell`` makes of somebody else's error or value, or what it raised instead."""
    try:
        return tell(value)
    except Exception as found:  # noqa: BLE001 - somebody else's __str__
        return f"its message cannot be shown: {type(found).__name__}"
