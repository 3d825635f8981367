"""What a story's ``call`` names: imported, and whatever its module does is told, with the user's own line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pytest_taskservice.drivers.exits import contained_exits
from pytest_taskservice.errors import TaskImportError
from pytest_taskservice.simulator.overdue import OverdueError, ended_after, where_it_stood

__all__ = ["at_path"]

IMPORT_SECONDS = 60.0
"""How long a module may take until it is imported: one that never is must not hold the whole run."""
_late: dict[str, TimeoutError] = {}


def at_path(place: str, *, kind: str = "task") -> Any:
    """Return what stands at a dotted path; ``None`` if there is no such module or attribute.

    Raise `TaskImportError` where its module raises: an exit, or a skip of pytest's, would be no verdict. So
    it is where the module has not been imported after `IMPORT_SECONDS`, and the next time at once.
    """
    module, _, attribute = place.rpartition(".")
    if not all(part.isidentifier() for part in place.split(".")) or not module:
        return None
    if module in _late:
        raise TaskImportError(place, module, _late[module], kind)
    try:
        with ended_after(IMPORT_SECONDS), contained_exits(__name__):
            return getattr(import_module(module), attribute, None)
    except KeyboardInterrupt:
        raise
    except OverdueError as error:
        late = _late[module] = TimeoutError(f"it takes more than {IMPORT_SECONDS:g} s")
        late.__traceback__ = where_it_stood(error.__traceback__)
        raise TaskImportError(place, module, late, kind) from None
    except ModuleNotFoundError as error:
        # A module that is there and lacks another one is the user's to mend.
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return None
        raise TaskImportError(place, module, error, kind) from error
    except BaseException as error:
        raise TaskImportError(place, module, error, kind) from error
