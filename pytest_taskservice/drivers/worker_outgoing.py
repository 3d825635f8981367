"""What a test sends to real workers, heard of as it leaves: they know its task, and listen to its queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers import celery_app, discovery

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.drivers.base import Stage
    from pytest_taskservice.drivers.eagerness import Eagerness
    from pytest_taskservice.drivers.unshared import Unshared
    from pytest_taskservice.drivers.worker_serving import Serving
    from pytest_taskservice.history import Event

__all__ = ["Outgoing"]


class Outgoing:
    """The messages of one test. ``tell`` takes their events, ``hint`` what a worker cannot know."""

    def __init__(  # noqa: PLR0913 - what the test was begun with, and where to tell of it
        self,
        app: Celery,
        settings: Mapping[str, Any],
        stage: Stage | None,
        *,
        serving: Serving,
        unshared: Unshared,
        tell: Callable[[Event], None],
        hint: Callable[[str], None],
    ) -> None:
        self._app = app
        self._settings = settings
        self._stage = stage
        self._serving = serving
        self._unshared = unshared
        self._tell, self._hint = tell, hint
        self._leaving: dict[str, float] = {}
        self.eagerness: Eagerness | None = None
        """Asked to look at what the app says of itself whenever a task leaves."""

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear of them, meanwhile."""
        from celery import signals

        signals.before_task_publish.connect(self._before_publish, weak=False)
        signals.after_task_publish.connect(self._after_publish, weak=False)
        try:
            yield
        finally:
            signals.after_task_publish.disconnect(self._after_publish)
            signals.before_task_publish.disconnect(self._before_publish)

    def _before_publish(self, sender: Any = None, headers: Any = None, **message: Any) -> None:
        """Before a message leaves: make sure that the workers know its task and listen to its queue."""
        name = str(sender)
        if name not in self._serving.running.tasks and name in self._app.tasks:
            self._teach(name)
        if self.eagerness is not None:
            self.eagerness.look()
        if self._stage is None and name in self._app.tasks:
            for hint in self._unshared.of(self._app.tasks[name]):
                self._hint(hint)
        if self._stage is None or self._stage.workers is None or not self._stage.workers.queues:
            fleet = self._serving.running
            for queue in message.get("declare") or ():
                if queue.name not in fleet.queues:
                    fleet.consume(queue.name)
        # Told once it has gone out, but a worker may have it before we are told.
        self._leaving[str((headers or {}).get("id", ""))] = celery_app.now()

    def _after_publish(self, sender: Any = None, **message: Any) -> None:
        from pytest_taskservice.drivers.worker_sends import sent_event

        run = str((message.get("headers") or {}).get("id", ""))
        at = self._leaving.pop(run, None) or celery_app.now()
        self._tell(celery_app.event_from(sent_event(sender, message, at=at)))

    def _teach(self, name: str) -> None:
        """Exchange idle workers for ones that have imported the module of task ``name`` too."""
        serving = self._serving
        if discovery.is_local(self._app.tasks[name]):
            self._hint(
                f"task {name!r} is defined inside a function; the worker is another process and can "
                "only import it from module level"
            )
        elif name in serving.never_known:
            self._hint(f"the worker has imported the module of task {name!r} and found no such task")
        elif self._stage is None and serving.running.look(1.0).idle:
            serving.serve(self._app, self._settings, None)
