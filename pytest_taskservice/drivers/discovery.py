"""Finding, in the test process, what a worker process must know: where the app and its tasks live."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.worker_spec import ModuleSource

if TYPE_CHECKING:
    from celery import Celery

__all__ = [
    "find_app",
    "find_modules",
    "find_queues",
    "is_local",
    "own_attributes",
    "own_task_class",
    "portable_settings",
]


def find_app(app: Celery) -> tuple[ModuleSource, str] | None:
    """Return the module and attribute that hold ``app``; ``None`` if no module does."""
    # The module that made the app first: others import it from there.
    for name in dict.fromkeys((app.main or "", *tuple(sys.modules))):
        # There Celery notes which app is the default one.
        if name == "celery._state":
            continue
        module = sys.modules.get(name)
        for attribute, value in tuple(getattr(module, "__dict__", {}).items()):
            if value is app:
                return _source(name), attribute
    return None


def own_attributes(app: Celery) -> list[str]:
    """Return the public attributes that somebody has set on ``app``."""
    kind = type(app)
    return [
        name
        for name in vars(app)
        if not (name.startswith("_") or name in _celerys_own() or hasattr(kind, name))
    ]


@cache
def _celerys_own() -> frozenset[str]:
    from celery import Celery

    return frozenset(vars(Celery(set_as_current=False)))


def own_task_class(app: Celery) -> str:
    """Return the name of the app's own task class, if it is one that only a function holds."""
    kind: Any = app.task_cls
    return kind.__name__ if isinstance(kind, type) and "<locals>" in kind.__qualname__ else ""


def find_modules(app: Celery) -> tuple[ModuleSource, ...]:
    """Return the modules that define tasks of ``app`` or of the task service, in order of registration."""
    names = dict.fromkeys(_task_modules(app))
    return tuple(_source(name) for name in names if name in sys.modules)


def find_queues(app: Celery) -> tuple[str, ...]:
    """Return every queue that the app's settings and tasks name, the default one first."""
    conf = app.conf
    names = [conf.task_default_queue, *app.amqp.queues]
    names += _route_queues(conf.task_routes)
    names += [queue for task in app.tasks.values() if (queue := getattr(task, "queue", None))]
    for entry in (conf.beat_schedule or {}).values():
        names.append((entry.get("options") or {}).get("queue"))
    return tuple(dict.fromkeys(str(getattr(name, "name", name)) for name in names if name))


def is_local(task: Any) -> bool:
    """Say whether a task is defined inside a function, where no other process can import it."""
    return "<locals>" in getattr(getattr(task, "run", None), "__qualname__", "")


def portable_settings(app: Celery) -> dict[str, Any]:
    """Return the settings made on the app itself that JSON can carry; the rest comes with its module."""
    changes: Any = app.conf.changes
    return {key: value for key, value in changes.items() if _is_json(value)}


def _task_modules(app: Celery) -> Iterator[str]:
    for name, task in app.tasks.items():
        if not name.startswith("celery."):
            yield getattr(task, "__module__", None) or type(task).__module__
    declared = sys.modules.get("taskservice.tasks")
    if declared is not None:
        for definition in declared.default_registry:
            yield definition.func.__module__


def _source(name: str) -> ModuleSource:
    return ModuleSource(name=name, file=getattr(sys.modules[name], "__file__", None))


def _route_queues(routes: Any) -> Iterable[Any]:
    """Yield the queues named in ``task_routes``, whatever of its shapes it has; routers are skipped."""
    if isinstance(routes, dict):
        routes = routes.items()
    elif not isinstance(routes, (list, tuple)):
        return
    for route in routes:
        if isinstance(route, dict):
            yield from _route_queues(route)
        elif isinstance(route, (list, tuple)) and len(route) == 2:
            target = route[1]
            yield target if isinstance(target, str) else dict(target).get("queue")


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
