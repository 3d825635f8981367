"""What the processes of a real world are told: made from the app, the options and a story's stage.

Two tests whose specs are equal can have the same processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers import discovery, synthetic
from pytest_taskservice.drivers.app_patch import broker_changes
from pytest_taskservice.drivers.base import Stage, TaskCall
from pytest_taskservice.drivers.celery_app import find_task, sending_options
from pytest_taskservice.drivers.configured import find_configured
from pytest_taskservice.drivers.databases import find_databases
from pytest_taskservice.drivers.unshared import keeps_mail
from pytest_taskservice.drivers.worker_fleet import BEAT
from pytest_taskservice.drivers.worker_spec import ModuleSource, WorkerSpec
from pytest_taskservice.scenario.behaviour import SYNTHETIC
from taskservice.worker.taking import is_taking_installed

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.drivers.worker_place import Place

__all__ = ["make_specs", "settings_in"]

_NOT_PASSED_ON = ("CELERY_", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_")
_ALONE = "celery@taskservice"
_OPTIONS = ("broker_transport_options", "result_backend_transport_options")


def settings_in(place: Place, app: Celery, settings: Mapping[str, Any], *, who: str) -> dict[str, Any]:
    """Return the settings that ``who`` has in a world: the world's and the test's own."""
    world = broker_changes(app, url=place.url(who), prefix=place.prefix)
    own = dict(settings)
    for name in _OPTIONS:
        # Both have a say in these: the keys' prefix is the world's, a visibility timeout the test's.
        prefix = {"global_keyprefix": place.prefix} if place.prefix else {}
        own[name] = {**world[name], **(own.get(name) or {}), **prefix}
    return world | own


def make_specs(  # noqa: PLR0913 - all that a process can be told of
    app: Celery,
    settings: Mapping[str, Any],
    place: Place,
    *,
    stage: Stage | None,
    pool: str,
    concurrency: int,
    known: Mapping[str, str],
) -> tuple[WorkerSpec, ...]:
    """Return what each worker is told, and the beat of a story that has one, which comes last.

    ``known`` are the types of the app's exchanges; ``pool`` and ``concurrency`` hold where the stage says
    nothing else.
    """
    workers = stage.workers if stage else None
    if stage:
        # Modules that only the story names: imported first, so that the workers import them too.
        for call in stage.tasks.values():
            _name_of(app, call)
    base = WorkerSpec(
        app=discovery.find_app(app),
        main=app.main or "app",
        settings=discovery.portable_settings(app),
        world={},
        # A worker knows the task that plays behaviours; the app does or does not by now.
        modules=(
            *(each for each in discovery.find_modules(app) if each.name != synthetic.__name__),
            *_workflow_modules(stage),
        ),
        queues=(workers.queues if workers else ()) or discovery.find_queues(app),
        pool=(workers.pool if workers else None) or pool,
        concurrency=workers.concurrency if workers else concurrency,
        hostname="",
        agent=0,
        exchanges=known,
        databases=find_databases(),
        django=find_configured(),
        mail=keeps_mail(),
        cwd=str(Path.cwd()),
        sys_path=tuple(entry or str(Path.cwd()) for entry in sys.path),
        environment={
            name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)
        },
        story=stage is not None,
        takes_safely=is_taking_installed(app),
        # Also where a story has none: the next one may, and takes the same workers.
        workflows=stage is not None,
    )
    names = [f"worker{number + 1}@taskservice" for number in range(workers.count if workers else 1)]
    specs = [_named(base, name, place, app, settings) for name in (names if stage else [_ALONE])]
    if stage and stage.beat:
        specs.append(replace(_named(base, BEAT, place, app, settings), beat=_schedule(app, stage)))
    return tuple(specs)


def _workflow_modules(stage: Stage | None) -> tuple[ModuleSource, ...]:
    if stage is None or not any(each.call for each in stage.workflows.values()):
        return ()

    # With it come the runtime's settings and client, which take a third of a second to import.
    from pytest_taskservice.drivers.workflow_celery import called_modules

    return called_modules(stage)


def _named(base: WorkerSpec, name: str, place: Place, app: Celery, settings: Mapping[str, Any]) -> WorkerSpec:
    return replace(base, hostname=name, world=settings_in(place, app, settings, who=name))


def _schedule(app: Celery, stage: Stage) -> dict[str, dict[str, Any]]:
    found = {}
    for name, entry in stage.beat.items():
        call = stage.tasks.get(entry.task) or TaskCall(task=entry.task, label=entry.task)
        found[name] = {
            "task": _name_of(app, call),
            "every": entry.every,
            "cron": entry.cron,
            "timezone": entry.timezone,
            "args": list(call.args),
            "kwargs": dict(call.kwargs),
            "options": sending_options(call),
        }
    return found


def _name_of(app: Celery, call: TaskCall) -> str:
    # Every worker knows it; the test's app may come to know it later.
    return call.task if call.task == SYNTHETIC else str(find_task(app, call.task).name)
