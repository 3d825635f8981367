"""What a worker process is told of an app that a test made: its settings, tasks and parameters."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers import discovery
from pytest_taskservice.drivers.carried import carry, class_places, tasks_to_carry
from pytest_taskservice.drivers.configured import find_configured
from pytest_taskservice.drivers.databases import find_databases
from pytest_taskservice.drivers.portable import UnportableError, encode
from pytest_taskservice.drivers.unshared import keeps_mail
from pytest_taskservice.drivers.worker_spec import ModuleSource, WorkerSpec
from pytest_taskservice.errors import HarnessError

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.compat.base import WorkerRequest

__all__ = ["Knowledge", "Surroundings", "knowledge_of", "make_spec"]

_PING = "celery.contrib.testing.tasks"
# A worker's records are handed on from this level, and the test's own loggers choose among them.
_LEVEL = "INFO"
_QUIETER = ("WARNING", "WARN", "ERROR", "CRITICAL", "FATAL")
_NOT_PASSED_ON = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """The tasks of an app, as a worker process can be told them; ``hints`` name what it cannot be told."""

    modules: tuple[ModuleSource, ...] = ()
    classes: tuple[str, ...] = ()
    carried: tuple[Mapping[str, Any], ...] = ()
    hints: tuple[str, ...] = field(default=(), compare=False)


def knowledge_of(app: Celery) -> Knowledge:
    """Return what a worker must know to run the tasks that ``app`` has now."""
    carried, hints = [], []
    for task in tasks_to_carry(app):
        try:
            carried.append(carry(app, task))
        except UnportableError as error:
            hints.append(f"task {task.name!r} is not known to the worker, another process: {error}")
    classes, homeless = class_places(app)
    hints += [f"task {name!r} is not known to the worker: no module holds its class" for name in homeless]
    return Knowledge(
        modules=_modules(app),
        classes=tuple(classes),
        carried=tuple(carried),
        hints=tuple(hints),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the world does to an app: see the fields of :class:`WorkerSpec`."""

    world: Mapping[str, Any]
    exchanges: Mapping[str, str]
    redirects: Mapping[str, str]


def make_spec(
    app: Celery, request: WorkerRequest, knowledge: Knowledge, around: Surroundings
) -> tuple[WorkerSpec, list[str]]:
    """Return what the process is told, and hints at settings that it cannot be told."""
    held = discovery.find_app(app)
    settings, hints = _settings(app)
    pool = request.pool
    django = _django_settings()
    spec = WorkerSpec(
        app=held,
        main=app.main or "app",
        settings=settings,
        world=around.world,
        modules=knowledge.modules,
        queues=(),
        pool=pool if isinstance(pool, str) else f"{pool.__module__}:{pool.__qualname__}",
        concurrency=request.concurrency,
        hostname=request.hostname,
        agent=0,
        exchanges=around.exchanges,
        databases=find_databases(),
        django=find_configured(),
        mail=keeps_mail(),
        cwd=str(Path.cwd()),
        sys_path=tuple(entry or str(Path.cwd()) for entry in sys.path),
        environment=django
        | {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)},
        app_options={} if held else _app_options(app),
        worker_options=_worker_options(request.options),
        loglevel=_level(request.loglevel),
        classes=knowledge.classes,
        carried=knowledge.carried,
        redirects=around.redirects,
    )
    # The module that holds an app brings its settings along.
    return spec, [] if held else hints


def _modules(app: Celery) -> tuple[ModuleSource, ...]:
    found = discovery.find_modules(app)
    loader: Any = app.loader
    # Modules that were named to be included may hold nothing but signal handlers.
    included = [name for name in (*sorted(loader.task_modules), _PING) if name in sys.modules]
    extra = [ModuleSource(name=name, file=getattr(sys.modules[name], "__file__", None)) for name in included]
    return tuple(dict.fromkeys((*found, *extra)))


def _settings(app: Celery) -> tuple[dict[str, Any], list[str]]:
    conf: Any = app.conf
    settings: dict[str, Any] = {}
    hints = []
    for key, value in dict(conf.without_defaults()).items():
        try:
            settings[key] = encode(value)
        except UnportableError as error:
            hints.append(f"the worker, another process, does not have your setting {key!r}: {error}")
    return settings, hints


def _app_options(app: Celery) -> dict[str, Any]:
    """Return the parameters of ``Celery()`` that a rebuilt app needs too."""
    loose: Any = app
    given = {"strict_typing": loose.strict_typing, "namespace": loose.namespace}
    for name in ("task_cls", "loader_cls"):
        value = getattr(loose, name)
        if value is not None:
            given[name.replace("loader_cls", "loader")] = value
    told = {}
    for name, value in given.items():
        if value is None:
            continue
        try:
            told[name] = encode(value)
        except UnportableError as error:
            raise HarnessError(
                f"the worker, another process, cannot make the app {app.main!r} anew: its {name} is "
                f"{value!r} ({error}). Keep the app in a variable of a module, where the worker finds it, or "
                "run this test with --taskservice-backend=celery-sim"
            ) from None
    return told


def _worker_options(options: Mapping[str, Any]) -> dict[str, Any]:
    told = {}
    for key, value in options.items():
        try:
            told[key] = encode(value)
        except UnportableError as error:
            raise HarnessError(f"worker parameter {key!r}: {error}, where the worker runs") from None
    return told


def _django_settings() -> dict[str, str]:
    """Return where Django's settings lie; a test may have named them for a moment only."""
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return {}
    # Settings that code has made have none.
    module = conf.settings.SETTINGS_MODULE
    return {"DJANGO_SETTINGS_MODULE": module} if module else {}


def _level(level: str | int) -> str:
    name = str(level).upper()
    if isinstance(level, int):
        return "DEBUG" if level < 20 else _LEVEL
    return _LEVEL if name in _QUIETER else name
