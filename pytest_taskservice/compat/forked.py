"""What the children of a prefork pool know: the process as it was when they were forked.

Simulated children share the test's memory. Receivers of signals and serializers that a test adds later are
kept from them here, as the children of an embedded worker know nothing of them. Leans on
``Signal.receivers`` and ``Signal._live_receivers`` of Celery, and on kombu's ``registry``.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_taskservice.simulator.celery.processes import ChildProcess, MainProcess
from pytest_taskservice.simulator.core.fibers import current_fiber

if TYPE_CHECKING:
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["Forked", "install_forks"]

_signals: Any = import_module("celery.signals")
_dispatch: Any = import_module("celery.utils.dispatch.signal")
_serialization: Any = import_module("kombu.serialization")
_trace: Any = import_module("celery.app.trace")

_OURS = "pytest_taskservice"

_forks: weakref.WeakKeyDictionary[MainProcess, Forked] = weakref.WeakKeyDictionary()


class Forked:
    """A memory of what there was. ``learn`` adds what a worker connects before it forks."""

    def __init__(self) -> None:
        # By identity, and kept: whoever connects anew is somebody else.
        self._known = _entries()
        self.registry = copy.copy(_serialization.registry)
        for name in ("_decoders", "_encoders", "_disabled_content_types"):
            setattr(self.registry, name, copy.copy(getattr(_serialization.registry, name)))

    def begin(self, process: MainProcess, before: Iterable[int]) -> None:
        """Be the memory of the children of ``process``, which has connected what was not there ``before``."""
        added = _entries()
        self._known |= {key: added[key] for key in added.keys() - set(before)}
        _forks[process] = self

    def heard(self, signal: Any, receivers: list[Any]) -> list[Any]:
        """Return those of ``receivers`` that were connected to ``signal`` then."""
        then = [_resolved(entry) for _, entry in signal.receivers if id(entry) in self._known]
        return [each for each in receivers if each in then or _is_ours(each)]

    @staticmethod
    def now() -> frozenset[int]:
        """Return what is connected."""
        return frozenset(_entries())


def install_forks(patches: Patches) -> None:
    """Have children hear and read what they know, as long as a simulation is open."""
    live, loads = _dispatch.Signal._live_receivers, _serialization.loads  # noqa: SLF001 - as said above

    def live_receivers(signal: Any, sender: Any) -> Any:
        found = live(signal, sender)
        forked = _current() if found else None
        return found if forked is None else forked.heard(signal, found)

    def loads_in_child(*args: Any, **options: Any) -> Any:
        forked = _current()
        return (loads if forked is None else forked.registry.loads)(*args, **options)

    patches.set(_dispatch.Signal, "_live_receivers", live_receivers)
    patches.default(_trace.fast_trace_task, loads, loads_in_child)


def _current() -> Forked | None:
    """Return the memory of the child whose body runs here."""
    fiber = current_fiber()
    process: Any = None if fiber is None else fiber.process
    return _forks.get(process.parent) if isinstance(process, ChildProcess) else None


def _entries() -> dict[int, Any]:
    signals = (found for found in vars(_signals).values() if isinstance(found, _dispatch.Signal))
    return {id(entry): entry for signal in signals for _, entry in signal.receivers}


def _resolved(entry: Any) -> Any:
    return entry() if isinstance(entry, weakref.ReferenceType) else entry


def _is_ours(receiver: Any) -> bool:
    return str(getattr(receiver, "__module__", "")).partition(".")[0] == _OURS
