"""What a load run sends unless it is told of tasks of yours; workers import it from here.

Each returns when its body began and ended, in seconds since the epoch by the worker's clock, so that
waiting and running can be told apart without any task events.
"""

from __future__ import annotations

from time import perf_counter, sleep, time
from typing import TYPE_CHECKING, Final

from taskservice.tasks import task
from taskservice.workflow.definitions import workflow

if TYPE_CHECKING:
    from taskservice.workflow.context import WorkflowContext

__all__ = ["NAP", "NOOP", "QUESTION", "TIMED", "WORK", "nap", "noop", "question", "work"]

NOOP: Final = "load.noop"
NAP: Final = "load.nap"
WORK: Final = "load.work"
QUESTION: Final = "load.question"
TIMED: Final = frozenset({NOOP, NAP, WORK})
"""Those that tell themselves when they ran."""


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
    answer: str = ctx.step(str, ctx.ask("go on?"))
    return answer
