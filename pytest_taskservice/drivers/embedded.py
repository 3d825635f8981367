"""Celery's embedded worker, ``celery.contrib.testing.worker.start_worker``, with a worker of ours.

Celery's own would run in a thread beside a simulation, in real time. ``start_worker`` stays what it is,
however early somebody has imported it: it pings the worker and sends its signals. Leans on the names
``_start_worker_thread``, by which it starts it, and ``_set_task_join_will_block``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from pytest_taskservice.drivers.base import CapabilityError
from pytest_taskservice.errors import HarnessError

__all__ = ["embedded_by", "let_tests_join", "refuse_controller", "worker_options"]

_SEAM = "_start_worker_thread"
_JOIN = "_set_task_join_will_block"
# What concerns Celery's own thread, and its logging.
_ITS_OWN = {"logfile", "loglevel", "perform_ping_check", "pool", "shutdown_timeout"}


@contextmanager
def embedded_by(serve: Callable[..., AbstractContextManager[Any]]) -> Iterator[None]:
    """Have ``serve`` start what ``start_worker`` starts, with the same arguments."""
    testing = _testing()
    missing = [name for name in (_SEAM, _JOIN) if not hasattr(testing, name)]
    if missing:
        raise HarnessError(
            f"this Celery's contrib.testing.worker has no {', '.join(missing)}: taskservice knows 5.5 to 5.7"
        )
    before = getattr(testing, _SEAM)
    setattr(testing, _SEAM, serve)
    try:
        yield
    finally:
        setattr(testing, _SEAM, before)


def let_tests_join() -> None:
    """Let the test wait for results, as Celery's embedded worker does: building one may have forbidden it."""
    getattr(_testing(), _JOIN)(False)


def refuse_controller(world: str, asked: Mapping[str, Any]) -> None:
    """Raise ``CapabilityError`` if ``start_worker`` was given a ``WorkController`` of the caller's."""
    if "WorkController" in asked:
        chosen = f"WorkController={asked['WorkController']!r}"
        raise CapabilityError(world, chosen, "the worker is its own")


def worker_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``start_worker``'s arguments a simulated worker takes."""
    refuse_controller("celery-sim", asked)
    return {name: value for name, value in asked.items() if name not in _ITS_OWN}


def _testing() -> Any:
    return import_module("celery.contrib.testing.worker")
