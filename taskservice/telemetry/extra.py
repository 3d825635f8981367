"""The libraries that the extra brings, or an error that says how to get them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["load_extra"]


def load_extra(module: str, wanted_for: str) -> ModuleType:
    """Import ``module``; `ConfigurationError` with the command to install it if it is not there."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{wanted_for} need an extra: pip install 'taskservice[telemetry]' ({error})"
        ) from error
