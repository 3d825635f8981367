"""The workflows that are measured; the workers import them from here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from taskservice.workflow import workflow

if TYPE_CHECKING:
    from taskservice.workflow import WorkflowContext

__all__ = ["asking", "chatty"]


@workflow("benchmarks.chatty")
def chatty(ctx: WorkflowContext, count: int, pause: float) -> None:
    """Say ``count`` times what time it is, and wait in between."""
    for _ in range(count):
        ctx.emit("tick", time.time())
        time.sleep(pause)


@workflow("benchmarks.asking")
def asking(ctx: WorkflowContext) -> int:
    """Ask one question, and return the answer."""
    return int(ctx.ask("how many?", schema=int))
