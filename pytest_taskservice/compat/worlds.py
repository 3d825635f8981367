"""Which of the harness's worlds can serve Celery's own fixtures, and how each is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_taskservice.compat.base import CompatWorld
    from pytest_taskservice.session import HarnessSession

__all__ = ["able", "open_compat_world", "why_unable"]

_CANNOT = {
    "celery-eager": "eager mode has no worker and no messages",
    "anyio": "its tasks need no Celery app",
}


def able(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the worlds ``names`` that can serve Celery's fixtures, in order."""
    return tuple(name for name in names if name in _OPENERS)


def why_unable(name: str) -> str:
    """Return why a world cannot serve them."""
    return f"{name} cannot: Celery's fixtures ({_CANNOT.get(name, 'not made for them')})"


def open_compat_world(name: str, harness: HarnessSession) -> CompatWorld:
    """Return the world ``name``, opened."""
    return _OPENERS[name](harness)


def _open_celery(harness: HarnessSession) -> CompatWorld:
    from pytest_taskservice.compat.process_world import ProcessWorld

    return ProcessWorld(harness)


def _open_simulator(harness: HarnessSession) -> CompatWorld:
    from pytest_taskservice.compat.simulated_world import SimulatedWorld

    return SimulatedWorld(harness)


_OPENERS: Mapping[str, Callable[[HarnessSession], CompatWorld]] = {
    "celery": _open_celery,
    "celery-sim": _open_simulator,
}
