"""Celery's embedded worker, ``celery.contrib.testing.worker.start_worker``, in a simulation: one of its own.

Celery's would run beside it in a thread, in real time. Leans on the name ``_start_worker_thread``, by which
``start_worker`` starts it, however early somebody has imported that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from pytest_taskservice.drivers.base import CapabilityError

__all__ = ["embedded_by", "worker_options"]

_SEAM = "_start_worker_thread"
# What concerns Celery's own thread, and its logging.
_ITS_OWN = {"logfile", "loglevel", "perform_ping_check", "pool", "shutdown_timeout"}


@contextmanager
def embedded_by(serve: Callable[..., AbstractContextManager[Any]]) -> Iterator[None]:
    """Have ``serve`` start what ``start_worker`` starts, with the same arguments."""
    testing: Any = import_module("celery.contrib.testing.worker")
    before = getattr(testing, _SEAM)
    setattr(testing, _SEAM, serve)
    try:
        yield
    finally:
        setattr(testing, _SEAM, before)


def worker_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``start_worker``'s arguments a simulated worker takes."""
    if "WorkController" in asked:
        chosen = f"WorkController={asked['WorkController']!r}"
        raise CapabilityError("celery-sim", chosen, "the worker is its own")
    return {name: value for name, value in asked.items() if name not in _ITS_OWN}
