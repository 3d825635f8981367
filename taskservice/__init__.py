"""The runtime: what a production service imports. Each name is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskservice.backends.anyio import AnyIOBackend
    from taskservice.backends.base import BackendCapability, BackendHealth, TaskBackend
    from taskservice.backends.calls_many import Call
    from taskservice.backends.canvas.handle import CanvasHandle
    from taskservice.backends.celery import CeleryBackend
    from taskservice.backends.packed import register_packed
    from taskservice.blocking import (
        BlockingCanvasHandle,
        BlockingDeadLetters,
        BlockingTaskHandle,
        BlockingTaskLauncher,
        BlockingTaskService,
    )
    from taskservice.canvas import (
        Canvas,
        Chain,
        Chord,
        Group,
        Map,
        Signature,
        chain,
        chord,
        group,
        signature,
    )
    from taskservice.deadletters import DeadLetter, DeadLetterCause, DeadLetters
    from taskservice.errors import (
        BackendUnavailableError,
        ChordError,
        ConfigurationError,
        DeadLetterNotFoundError,
        LaunchOptionError,
        LeaseLostError,
        MaxStepsError,
        PackedNotRegisteredError,
        PayloadError,
        PayloadSizeError,
        QuestionError,
        ResultTimeoutError,
        RunCancelledError,
        RunExpiredError,
        RunFailedError,
        RunLostError,
        RunNotClaimableError,
        RunNotFoundError,
        ScheduleError,
        ServiceClosedError,
        SoftTimeLimitError,
        StepFailedError,
        TaskNotRegisteredError,
        TaskServiceError,
        TimeLimitError,
        UnknownBackendError,
        UnknownWorkflowError,
        WorkflowChangedError,
        WorkflowConflictError,
        WorkflowError,
        WorkflowExpiredError,
        WorkflowFailedError,
        WorkflowMisuseError,
        WorkflowOverError,
    )
    from taskservice.health import PoolState, QueueHealth, WorkerHealth
    from taskservice.heartbeats import WorkerHeartbeat, read_heartbeats
    from taskservice.runs import RunEvent, RunEventKind, RunListener, TaskHandle, TaskState
    from taskservice.schedules.entries import ScheduleEntry, parse_schedule
    from taskservice.selection import Selection, select_backend
    from taskservice.service import ServiceHealth, TaskLauncher, TaskService
    from taskservice.settings import Settings, load_settings
    from taskservice.submission import LaunchOptions
    from taskservice.tasks import (
        RetryPolicy,
        TaskDefinition,
        TaskRegistry,
        default_registry,
        next_delay,
        task,
    )
    from taskservice.worker.app import create_app
    from taskservice.workflow.blocking import BlockingWorkflowClient
    from taskservice.workflow.client import WorkflowClient
    from taskservice.workflow.context import AsyncWorkflowContext, WorkflowContext
    from taskservice.workflow.definitions import workflow
    from taskservice.workflow.events import WorkflowEvents
    from taskservice.workflow.model import (
        Deadlines,
        FailureReason,
        Question,
        WorkflowEvent,
        WorkflowRun,
        WorkflowStatus,
    )
    from taskservice.workflow.steps import current_step

__all__ = [
    "AnyIOBackend",
    "AsyncWorkflowContext",
    "BackendCapability",
    "BackendHealth",
    "BackendUnavailableError",
    "BlockingCanvasHandle",
    "BlockingDeadLetters",
    "BlockingTaskHandle",
    "BlockingTaskLauncher",
    "BlockingTaskService",
    "BlockingWorkflowClient",
    "Call",
    "Canvas",
    "CanvasHandle",
    "CeleryBackend",
    "Chain",
    "Chord",
    "ChordError",
    "ConfigurationError",
    "DeadLetter",
    "DeadLetterCause",
    "DeadLetterNotFoundError",
    "DeadLetters",
    "Deadlines",
    "FailureReason",
    "Group",
    "LaunchOptionError",
    "LaunchOptions",
    "LeaseLostError",
    "Map",
    "MaxStepsError",
    "PackedNotRegisteredError",
    "PayloadError",
    "PayloadSizeError",
    "PoolState",
    "Question",
    "QuestionError",
    "QueueHealth",
    "ResultTimeoutError",
    "RetryPolicy",
    "RunCancelledError",
    "RunEvent",
    "RunEventKind",
    "RunExpiredError",
    "RunFailedError",
    "RunListener",
    "RunLostError",
    "RunNotClaimableError",
    "RunNotFoundError",
    "ScheduleEntry",
    "ScheduleError",
    "Selection",
    "ServiceClosedError",
    "ServiceHealth",
    "Settings",
    "Signature",
    "SoftTimeLimitError",
    "StepFailedError",
    "TaskBackend",
    "TaskDefinition",
    "TaskHandle",
    "TaskLauncher",
    "TaskNotRegisteredError",
    "TaskRegistry",
    "TaskService",
    "TaskServiceError",
    "TaskState",
    "TimeLimitError",
    "UnknownBackendError",
    "UnknownWorkflowError",
    "WorkerHealth",
    "WorkerHeartbeat",
    "WorkflowChangedError",
    "WorkflowClient",
    "WorkflowConflictError",
    "WorkflowContext",
    "WorkflowError",
    "WorkflowEvent",
    "WorkflowEvents",
    "WorkflowExpiredError",
    "WorkflowFailedError",
    "WorkflowMisuseError",
    "WorkflowOverError",
    "WorkflowRun",
    "WorkflowStatus",
    "chain",
    "chord",
    "create_app",
    "current_step",
    "default_registry",
    "group",
    "load_settings",
    "next_delay",
    "parse_schedule",
    "read_heartbeats",
    "register_packed",
    "select_backend",
    "signature",
    "task",
    "workflow",
]

_HOMES = {
    "backends.anyio": ("AnyIOBackend",),
    "backends.base": ("BackendCapability", "BackendHealth", "TaskBackend"),
    "backends.calls_many": ("Call",),
    "backends.canvas.handle": ("CanvasHandle",),
    "backends.celery": ("CeleryBackend",),
    "backends.packed": ("register_packed",),
    "blocking": (
        "BlockingCanvasHandle",
        "BlockingDeadLetters",
        "BlockingTaskHandle",
        "BlockingTaskLauncher",
        "BlockingTaskService",
    ),
    "canvas": (
        "Canvas",
        "Chain",
        "Chord",
        "Group",
        "Map",
        "Signature",
        "chain",
        "chord",
        "group",
        "signature",
    ),
    "deadletters": ("DeadLetter", "DeadLetterCause", "DeadLetters"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "health": ("PoolState", "QueueHealth", "WorkerHealth"),
    "heartbeats": ("WorkerHeartbeat", "read_heartbeats"),
    "runs": ("RunEvent", "RunEventKind", "RunListener", "TaskHandle", "TaskState"),
    "schedules.entries": ("ScheduleEntry", "parse_schedule"),
    "selection": ("Selection", "select_backend"),
    "service": ("ServiceHealth", "TaskLauncher", "TaskService"),
    "settings": ("Settings", "load_settings"),
    "submission": ("LaunchOptions",),
    "tasks": (
        "RetryPolicy",
        "TaskDefinition",
        "TaskRegistry",
        "default_registry",
        "next_delay",
        "task",
    ),
    "worker.app": ("create_app",),
    "workflow.blocking": ("BlockingWorkflowClient",),
    "workflow.client": ("WorkflowClient",),
    "workflow.context": ("AsyncWorkflowContext", "WorkflowContext"),
    "workflow.events": ("WorkflowEvents",),
    "workflow.model": (
        "Deadlines",
        "FailureReason",
        "Question",
        "WorkflowEvent",
        "WorkflowRun",
        "WorkflowStatus",
    ),
    "workflow.steps": ("current_step",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "workflow":
        # The decorator has its package's name. The package is returned, and is called like the decorator.
        return import_module(f"{__name__}.workflow")

    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
