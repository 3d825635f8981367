"""Calls: what was handed in to be run, under one shape, and its arguments as they will arrive.

Celery is never imported here: a Celery task can only be handed in once somebody else did.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter, Signature, signature
from math import inf
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeGuard

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
    if type(func) is FunctionType:
        return False

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
    found = _parameters(func.run if is_celery_task(func) else func)
    if kwargs or not found.least <= len(args) <= found.most:
        found.check(args, kwargs)

    return wire_arguments(args, kwargs, found.names, limit=limit)


def require_open(opened: bool, what: str) -> None:
    """Raise `ServiceClosedError` unless ``opened``."""
    if not opened:
        raise ServiceClosedError(what)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parameters:
    """What a function takes; ``least`` to ``most`` positional arguments alone are right without a look."""

    signature: Signature | None = None
    names: tuple[str, ...] = ()
    least: int = 0
    most: float = inf

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise `TypeError` for what the function does not take."""
        if self.signature is not None:
            self.signature.bind(*args, **kwargs)


@lru_cache(maxsize=1024)
def _parameters(func: TaskFunction) -> _Parameters:
    try:
        found = signature(func)
    except (TypeError, ValueError):  # some builtins have none
        return _Parameters()

    every = found.parameters.values()
    needed = [each for each in every if each.default is Parameter.empty and each.kind not in _VARIADIC]
    positional = [each for each in every if each.kind in _POSITIONAL]
    # No number is right where something must be given by name.
    by_name = any(each.kind is Parameter.KEYWORD_ONLY for each in needed)
    many = any(each.kind is Parameter.VAR_POSITIONAL for each in every)
    return _Parameters(
        signature=found,
        names=tuple(found.parameters),
        least=len(needed),
        most=-1 if by_name else inf if many else len(positional),
    )


_VARIADIC: Final = frozenset({Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD})
_POSITIONAL: Final = frozenset({Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD})
