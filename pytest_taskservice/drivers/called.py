"""What a story's ``call`` names: imported, and whatever its module does is told, with the user's own line."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.exits import contained_exits
from pytest_taskservice.errors import TaskImportError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["at_path"]

IMPORT_SECONDS = 60.0
"""How long a module may take until it is imported: one that never is must not hold the whole run."""
_AGAIN = 1.0
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
        with _bounded(), contained_exits(__name__):
            return getattr(import_module(module), attribute, None)
    except KeyboardInterrupt:
        raise
    except _LateError as error:
        late = _late[module] = TimeoutError(f"it takes more than {IMPORT_SECONDS:g} s")
        late.__traceback__ = _where_it_stood(error.__traceback__)
        raise TaskImportError(place, module, late, kind) from None
    except ModuleNotFoundError as error:
        # A module that is there and lacks another one is the user's to mend.
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return None
        raise TaskImportError(place, module, error, kind) from error
    except BaseException as error:
        raise TaskImportError(place, module, error, kind) from error


class _LateError(BaseException):
    """Not an `Exception`: a module that hangs may catch those."""


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise `_LateError` where the block stands after `IMPORT_SECONDS`.

    Only the main thread can be interrupted, and where an alarm is set already, as by pytest-timeout, that one
    will do.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, IMPORT_SECONDS, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _interrupt(*_: object) -> None:
    raise _LateError


def _where_it_stood(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without its last frame, that of `_interrupt`."""
    last = trace
    while last is not None and last.tb_next is not None and last.tb_next.tb_next is not None:
        last = last.tb_next
    if last is not None:
        last.tb_next = None
    return trace
