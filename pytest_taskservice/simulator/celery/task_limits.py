"""What remote control changes at tasks: of a worker process for its lifetime, here at the app's own.

``rate_limit`` and ``time_limit`` set attributes. A worker that begins has them as the code does, and so has
the test when its simulation is over. Who sends a task, and a worker that takes one, have looked at its time
limits before and are not moved by what is set later: here both may look for the first time, and so do it just
before a change.

Leaned on: ``Task._get_exec_options``, which keeps what a task is sent with.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_taskservice.simulator.celery.worker import SimulatedWorker
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["TaskLimits"]

_control: Any = import_module("celery.worker.control")
_CHANGED: Final = {"rate_limit": ("rate_limit",), "time_limit": ("time_limit", "soft_time_limit")}
_ABSENT: Final = object()


class TaskLimits:
    """The limits of tasks as they were before any of ``workers`` was told to change them."""

    def __init__(self, workers: Sequence[SimulatedWorker]) -> None:
        self._workers = workers
        self._before: dict[tuple[Any, str], Any] = {}

    def install(self, patches: Patches) -> None:
        """Note what commands change, and put it back on leaving."""
        commands = _control.Panel.data
        for command, names in _CHANGED.items():
            patches.item(commands, command, partial(self._change, commands[command], names))
        patches.on_undo(self.restore)

    def restore(self) -> None:
        """Have all tasks as they were: a worker is about to begin, or the simulation over."""
        while self._before:
            (task, name), value = self._before.popitem()
            if value is _ABSENT:
                vars(task).pop(name, None)
            else:
                setattr(task, name, value)

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
                self._before.setdefault((task, name), vars(task).get(name, _ABSENT))
        return command(state, task_name, **arguments)

    @staticmethod
    def _take(worker: Any, task: Any) -> None:
        # One that has ended, or has not begun yet, has no strategies.
        strategies = getattr(getattr(worker, "consumer", None), "strategies", None)
        if strategies is not None:
            with suppress(KeyError):
                strategies[task.name]
