"""Worlds in virtual time: the core that knows no library, Celery over it, and event loops over it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["CelerySim", "Finding", "find"]


def __getattr__(name: str) -> Any:
    """Return what hunts in simulations, where users look for it; it is built over them, with Celery."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pytest_taskservice.hunting"), name)
