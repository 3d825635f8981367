"""Canvases of a story, sent through the user's own app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.base import CanvasRuns, TaskCall
from pytest_taskservice.drivers.celery_app import find_task, sending_options
from pytest_taskservice.scenario.behaviour import SYNTHETIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

__all__ = ["send_canvas"]


def send_canvas(
    app: Celery, kind: str, members: tuple[TaskCall, ...], body: TaskCall | None, *, ids: Sequence[str] = ()
) -> CanvasRuns:
    """Send a ``chain``, a ``group`` or a ``chord``, and return its runs.

    ``ids`` are those of all runs, the body's last, for who cannot wait to be told.
    """
    from celery import canvas

    signatures = [_signature(app, call) for call in members]
    end: Any = None if body is None else _signature(app, body)
    for signature, task_id in zip([*signatures, end], ids, strict=False):
        signature.set(task_id=task_id)
    if kind == "group":
        return CanvasRuns(ends=tuple(each.id for each in canvas.group(signatures)().results))
    if kind == "chain":
        result = canvas.chain(*signatures)()
        runs = [result.id]
        while (result := result.parent) is not None:
            runs.append(result.id)
        return CanvasRuns(ends=(runs[0],), members=tuple(reversed(runs[1:])))

    assert end is not None, "a chord has a body"
    found: Any = canvas.chord(signatures)(end)
    # In eager mode it has ended, and nobody asks for more than its ids.
    header = [] if ids else found.parent.results
    return CanvasRuns(ends=(found.id,), members=tuple(each.id for each in header))


def _signature(app: Celery, call: TaskCall) -> Any:
    task: Any = find_task(app, call.task)
    # A synthetic task is told how to behave; what came before it is not its business.
    return task.signature(
        call.args, dict(call.kwargs), immutable=task.name == SYNTHETIC, **sending_options(call)
    )
