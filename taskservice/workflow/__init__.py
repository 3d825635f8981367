"""Durable interactive workflows. Each name is loaded when it is first used.

The package is called like the decorator that it has: ``from taskservice import workflow`` gets one or the
other, and either way ``@workflow("refund")`` works.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskservice.workflow.blocking import BlockingWorkflowClient
    from taskservice.workflow.client import WorkflowClient
    from taskservice.workflow.context import AsyncWorkflowContext, WorkflowContext
    from taskservice.workflow.definitions import (
        DeadlineOptions,
        WorkflowDefinition,
        WorkflowRegistry,
        default_workflows,
        workflow,
    )
    from taskservice.workflow.engine import WorkflowEngine
    from taskservice.workflow.events import WorkflowEvents
    from taskservice.workflow.model import (
        Deadlines,
        EntryKind,
        FailureReason,
        JournalEntry,
        Question,
        WorkflowEvent,
        WorkflowRun,
        WorkflowStatus,
    )
    from taskservice.workflow.steps import StepInfo, current_step

__all__ = [
    "AsyncWorkflowContext",
    "BlockingWorkflowClient",
    "DeadlineOptions",
    "Deadlines",
    "EntryKind",
    "FailureReason",
    "JournalEntry",
    "Question",
    "StepInfo",
    "WorkflowClient",
    "WorkflowContext",
    "WorkflowDefinition",
    "WorkflowEngine",
    "WorkflowEvent",
    "WorkflowEvents",
    "WorkflowRegistry",
    "WorkflowRun",
    "WorkflowStatus",
    "current_step",
    "default_workflows",
    "workflow",
]

_HOMES = {
    "blocking": ("BlockingWorkflowClient",),
    "client": ("WorkflowClient",),
    "context": ("AsyncWorkflowContext", "WorkflowContext"),
    "definitions": (
        "DeadlineOptions",
        "WorkflowDefinition",
        "WorkflowRegistry",
        "default_workflows",
        "workflow",
    ),
    "engine": ("WorkflowEngine",),
    "events": ("WorkflowEvents",),
    "model": (
        "Deadlines",
        "EntryKind",
        "FailureReason",
        "JournalEntry",
        "Question",
        "WorkflowEvent",
        "WorkflowRun",
        "WorkflowStatus",
    ),
    "steps": ("StepInfo", "current_step"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallablePackage(ModuleType):
    """This package, with a ``__call__``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.workflow(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
