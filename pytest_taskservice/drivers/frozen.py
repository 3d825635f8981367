"""What a real worker cannot be shown: time that freezegun has frozen in the test's process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.celery_app import guarded
from pytest_taskservice.errors import HarnessError
from pytest_taskservice.simulator.freezing import frozen_by_freezegun
from pytest_taskservice.simulator.substitutes import Patches

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.backends.base import TaskBackend

__all__ = ["FrozenTimeError", "refuse_frozen_launches", "refusing_frozen_time"]


class FrozenTimeError(HarnessError, RuntimeError):
    """Under ``freeze_time`` a task was sent to a real worker, or its result waited for."""

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.action = action

    def __str__(self) -> str:
        return (
            f"cannot {self.action} under freeze_time: freezegun froze time in this process, and the worker "
            "lives in another. Move time with the fixture taskservice_clock, in a world with virtual time "
            "(--taskservice-backend=celery-sim or anyio), or freeze only code that needs no worker"
        )


@contextmanager
def refusing_frozen_time(app: Celery) -> Iterator[None]:
    """Raise :class:`FrozenTimeError` where ``app`` sends tasks, or is asked for results, in frozen time."""
    from celery.result import AsyncResult, ResultSet

    patches = Patches()
    for kind, names in ((AsyncResult, ("get",)), (ResultSet, ("get", "join", "join_native"))):
        for name in names:
            patches.set(kind, name, _checked(getattr(kind, name), app))
    send = _checker("send a task")
    try:
        with guarded(app, on_apply=lambda *_: send(), on_send=send):
            yield
    finally:
        patches.undo()


def refuse_frozen_launches(backend: TaskBackend) -> TaskBackend:
    """Have ``backend`` raise :class:`FrozenTimeError` for launches in frozen time; return it."""
    for name in ("launch_task", "launch_many", "launch_canvas"):
        setattr(backend, name, _launching(getattr(backend, name)))
    return backend


def _launching(launch: Callable[..., Any]) -> Callable[..., Any]:
    check = _checker("launch a task")

    @wraps(launch)
    async def launch_or_refuse(*args: Any, **kwargs: Any) -> Any:
        check()
        return await launch(*args, **kwargs)

    return launch_or_refuse


def _checked(wait: Callable[..., Any], app: Celery) -> Callable[..., Any]:
    check = _checker("wait for a result")

    @wraps(wait)
    def wait_or_refuse(result: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(result, "app", None) is app:
            check()
        return wait(result, *args, **kwargs)

    return wait_or_refuse


def _checker(action: str) -> Callable[[], None]:
    def check() -> None:
        if frozen_by_freezegun():
            raise FrozenTimeError(action)

    return check
