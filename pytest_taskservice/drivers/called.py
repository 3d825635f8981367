"""What a story's ``call`` names: imported, and whatever its module does is told, with the user's own line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pytest_taskservice.errors import TaskImportError

__all__ = ["at_path"]


def at_path(place: str, *, kind: str = "task") -> Any:
    """Return what stands at a dotted path; ``None`` if there is no such module or attribute.

    Raise `TaskImportError` where its module raises: an exit, or a skip of pytest's, would be no verdict.
    """
    module, _, attribute = place.rpartition(".")
    if not all(part.isidentifier() for part in place.split(".")) or not module:
        return None
    try:
        return getattr(import_module(module), attribute, None)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        # A module that is there and lacks another one is the user's to mend.
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return None
        raise TaskImportError(place, module, error, kind) from error
    except BaseException as error:
        raise TaskImportError(place, module, error, kind) from error
