"""Remote control where a simulated worker is not what a worker process is.

- ``rate_limit`` and ``time_limit`` set attributes of tasks: in a process for its lifetime, here at the app's
  own. A worker that begins has them as the code does, and so has the test when its simulation is over. Who
  sends a task, and a worker that takes one, have looked at its time limits before and are not moved by what
  is set later: here both may look for the first time, and so do it just before a change.
- ``enable_events``: a worker with heartbeats has somebody to tell events from its start, a simulated one only
  then.

Leaned on: ``Task._get_exec_options``, which keeps what a task is sent with.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pytest_taskservice.simulator.substitutes import Patches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_taskservice.simulator.celery.worker import SimulatedWorker

__all__ = ["RemoteControl"]

_control: Any = import_module("celery.worker.control")
_events: Any = import_module("celery.worker.consumer.events")
_LIMITS: Final = {"rate_limit": ("rate_limit",), "time_limit": ("time_limit", "soft_time_limit")}


class RemoteControl:
    """What ``workers`` are told, and the limits of tasks as they were before."""

    def __init__(self, workers: Sequence[SimulatedWorker]) -> None:
        self._workers = workers
        self._limits = Patches()

    def install(self, patches: Patches) -> None:
        """Have commands do as much as they would to processes, and undo it on leaving."""
        commands = _control.Panel.data
        for command, names in _LIMITS.items():
            patches.item(commands, command, partial(self._change, commands[command], names))
        patches.item(commands, "enable_events", partial(_enable_events, commands["enable_events"]))
        patches.on_undo(self.restore)

    def restore(self) -> None:
        """Have all tasks as they were: a worker is about to begin, or the simulation over."""
        self._limits.undo()

    def _change(
        self,
        command: Callable[..., Any],
        names: Sequence[str],
        state: Any,
        task_name: str | None = None,
        **arguments: Any,
    ) -> Any:
        task = state.app.tasks.get(task_name)
        if task is not None:
            task._get_exec_options()  # noqa: SLF001 - listed above
            for worker in self._workers:
                self._take(worker, task)
            for name in names:
                self._limits.set(task, name, getattr(task, name))
        return command(state, task_name, **arguments)

    @staticmethod
    def _take(worker: Any, task: Any) -> None:
        # One that has ended, or has not begun yet, has no strategies.
        strategies = getattr(getattr(worker, "consumer", None), "strategies", None)
        if strategies is not None:
            with suppress(KeyError):
                strategies[task.name]


def _enable_events(command: Callable[..., Any], state: Any, **arguments: Any) -> Any:
    consumer = state.consumer
    if consumer.event_dispatcher is None:
        _events.Events(consumer, task_events=False).start(consumer)
        # They look for it when they are made.
        consumer.update_strategies()
    return command(state, **arguments)
