"""What a load run sends unless it is told of tasks of yours; workers import it from here.

Each returns when its body began and ended, in seconds since the epoch by the worker's clock, so that waiting and running can
be told apart without any task events.
"""

from __future__ import annotations

from time import perf_counter, sleep, time
from typing import TYPE_CHECKING, Final

from taskservice.tasks import task
from taskservice.workflow.definitions import workflow

if TYPE_CHECKING:
    from taskservice.workflow.context import WorkflowContext

__all__ = ["NAP", "NOOP", "QUESTION", "WORK", "nap", "noop", "question", "work"]

NOOP: Final = "taskservice.load.noop"
NAP: Final = "taskservice.load.nap"
WORK: Final = "taskservice.load.work"
QUESTION: Final = "taskservice.load.question"


@task(name=NOOP)
def noop() -> list[float]:
    """Do nothing."""
    at = time()
    return [at, at]


@task(name=NAP)
def nap(seconds: float) -> list[float]:
    """Wait, as for an answer from elsewhere."""
    at = time()
    sleep(seconds)
    return [at, time()]


@task(name=WORK)
def work(seconds: float) -> list[float]:
    """Keep a processor busy."""
    at, until = time(), perf_counter() + seconds
    while perf_counter() < until:
        pass
    return [at, time()]


@workflow(QUESTION)
def question(ctx: WorkflowContext) -> str:
    """Take a step, ask, take another step."""
    ctx.step(str, "before")
    answer = ctx.ask("go on?")
    return ctx.step(str, answer)
