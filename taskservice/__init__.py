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
        PackedNotRegisteredError,
        PayloadError,
        PayloadSizeError,
        ResultTimeoutError,
        RunCancelledError,
        RunExpiredError,
        RunFailedError,
        RunLostError,
        RunNotFoundError,
        ScheduleError,
        ServiceClosedError,
        SoftTimeLimitError,
        TaskNotRegisteredError,
        TaskServiceError,
        TimeLimitError,
        UnknownBackendError,
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

__all__ = [
    "AnyIOBackend",
    "BackendCapability",
    "BackendHealth",
    "BackendUnavailableError",
    "BlockingCanvasHandle",
    "BlockingDeadLetters",
    "BlockingTaskHandle",
    "BlockingTaskLauncher",
    "BlockingTaskService",
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
    "Group",
    "LaunchOptionError",
    "LaunchOptions",
    "Map",
    "PackedNotRegisteredError",
    "PayloadError",
    "PayloadSizeError",
    "PoolState",
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
    "RunNotFoundError",
    "ScheduleEntry",
    "ScheduleError",
    "Selection",
    "ServiceClosedError",
    "ServiceHealth",
    "Settings",
    "Signature",
    "SoftTimeLimitError",
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
    "WorkerHealth",
    "WorkerHeartbeat",
    "chain",
    "chord",
    "create_app",
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
