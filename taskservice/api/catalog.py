"""The catalog: what clients may launch and start, by name, and in which queues."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from taskservice.api.problems import ProblemError
from taskservice.errors import ConfigurationError
from taskservice.tasks import default_registry
from taskservice.workflow.definitions import default_workflows

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.backends.base import TaskFunction
    from taskservice.settings import Settings

__all__ = ["Catalog"]

OURS: Final = ("celery.", "taskservice.")
"""What tasks are called that keep the machinery going, and are nobody else's to launch."""


class Catalog:
    """What ``settings`` and the modules that they import offer; making one imports, so it blocks.

    `ConfigurationError` for a name in ``api_tasks`` that nobody defines, or that is the machinery's.
    """

    def __init__(self, settings: Settings, app: Celery | None) -> None:
        _import(settings, app)
        self._tasks = _tasks(settings.api_tasks, app)
        self._workflows = frozenset(settings.api_workflows) or None
        self._queues = frozenset({settings.default_queue, *settings.queues, *settings.routes.values()})

    def task(self, name: str) -> TaskFunction:
        """Return what runs under ``name``; a problem if nothing does."""
        found = self._tasks.get(name)
        if found is None:
            raise ProblemError(404, "unknown_task", "no task of this name can be launched here")

        return found

    def check_workflow(self, name: str) -> None:
        """Refuse a workflow that cannot be started here."""
        known = name in default_workflows if self._workflows is None else name in self._workflows
        if not known:
            raise ProblemError(404, "unknown_workflow", "no workflow of this name can be started here")

    def check_queue(self, queue: str | None) -> None:
        """Refuse a queue that the settings do not name: it could be somebody else's, or nobody's."""
        if queue is not None and queue not in self._queues:
            raise ProblemError(422, "invalid", "options.queue is none of this service's queues")


def _import(settings: Settings, app: Celery | None) -> None:
    for module in settings.imports:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"put {module!r} on the import path, or take it out of imports: {error}"
            ) from error
    if app is not None:
        app.loader.import_default_modules()
        app.finalize()


def _tasks(allowed: tuple[str, ...], app: Celery | None) -> dict[str, TaskFunction]:
    defined: dict[str, TaskFunction] = {each.name: each for each in default_registry}
    known: dict[str, TaskFunction] = {**({} if app is None else app.tasks), **defined}
    wrong = sorted(name for name in allowed if name.startswith(OURS) or name not in known)
    if wrong:
        raise ConfigurationError(
            f"api_tasks: {', '.join(wrong)}: name tasks of your own, in modules that are among the imports"
        )
    names = allowed or [name for name in defined if not name.startswith(OURS)]
    return {name: known[name] for name in names}
