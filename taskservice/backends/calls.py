"""Calls: what was handed in to be run, under one shape, and its arguments as they will arrive.

Celery is never imported here: a Celery task can only be handed in once somebody else did.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from inspect import Signature, signature
from typing import TYPE_CHECKING, Any, TypeGuard

from taskservice.errors import ServiceClosedError
from taskservice.payloads import PAYLOAD_LIMIT, wire_arguments
from taskservice.tasks import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from celery import Task

    from taskservice.backends.base import TaskFunction

__all__ = ["function_name", "is_celery_task", "own_expires", "prepare_arguments", "require_open"]


def is_celery_task(func: object) -> TypeGuard[Task[..., Any]]:
    """Return whether ``func`` is a Celery task, lazy proxies included."""
    module = sys.modules.get("celery.app.task")
    return module is not None and isinstance(func, module.Task)


def function_name(func: TaskFunction) -> str:
    """Return the name its runs go by: the task's own, or ``module.qualname``."""
    if isinstance(func, TaskDefinition) or is_celery_task(func):
        return str(func.name)

    named = func if hasattr(func, "__qualname__") else type(func)
    return f"{named.__module__}.{named.__qualname__}"


def own_expires(func: TaskFunction) -> float | datetime | None:
    """Return when the task itself says that its runs expire."""
    if isinstance(func, TaskDefinition) or is_celery_task(func):
        found: float | datetime | None = func.expires
        return found

    return None


def prepare_arguments(
    func: TaskFunction, args: Sequence[Any], kwargs: Mapping[str, Any], *, limit: int = PAYLOAD_LIMIT
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments as the function will get them, or say which one is wrong."""
    found = _signature(func.run if is_celery_task(func) else func)
    if found is not None:
        found.bind(*args, **kwargs)

    return wire_arguments(args, kwargs, tuple(found.parameters) if found else (), limit=limit)


def require_open(opened: bool, what: str) -> None:
    """Raise `ServiceClosedError` unless ``opened``."""
    if not opened:
        raise ServiceClosedError(what)


@lru_cache(maxsize=1024)
def _signature(func: TaskFunction) -> Signature | None:
    try:
        return signature(func)
    except (TypeError, ValueError):  # some builtins have none
        return None
