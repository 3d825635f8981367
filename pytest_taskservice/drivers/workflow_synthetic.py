"""The workflow that plays a story's steps: one function for workers, and its twin for event loops.

Its steps are arguments of the run, so any worker that knows this one workflow plays every story.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import anyio

from taskservice.workflow.definitions import WorkflowDefinition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_taskservice.scenario.model import Workflow
    from taskservice.workflow.context import AsyncWorkflowContext, WorkflowContext

__all__ = ["SYNTHETIC_WORKFLOW", "StoryFailedError", "arguments_of", "synthetic_workflow"]

SYNTHETIC_WORKFLOW: Final = "pytest_taskservice.story"
"""The name of the workflow, of which no story's own may be."""
EMITTED: Final = "emit"
"""The kind of an event whose step names none."""


class StoryFailedError(RuntimeError):
    """A story's workflow came to a step that fails."""


def synthetic_workflow(*, is_async: bool = False) -> WorkflowDefinition:
    """Return the definition; ``is_async`` is for an event loop, whose time its steps take."""
    return WorkflowDefinition(func=_play_async if is_async else _play, name=SYNTHETIC_WORKFLOW)


def arguments_of(workflow: Workflow) -> tuple[Any, ...]:
    """Return what a run of ``workflow`` is started with, as plain JSON: its name first."""
    return workflow.name, [[step.kind, step.seconds, step.text, step.value] for step in workflow.steps]


def _play(ctx: WorkflowContext, name: str, steps: Sequence[Sequence[Any]]) -> Any:
    """Play the workflow called ``name``; it returns its last answer unless it says something else."""
    answer = None
    for kind, seconds, text, value in steps:
        match kind:
            case "run":
                ctx.step(_run_for, seconds)
            case "ask":
                answer = ctx.ask(text, timeout=seconds or None)
            case "emit":
                ctx.emit(text or EMITTED, value)
            case "fail":
                raise StoryFailedError(text)
            case "return":
                return value
    return answer


async def _play_async(ctx: AsyncWorkflowContext, name: str, steps: Sequence[Sequence[Any]]) -> Any:
    """Do the same in an event loop."""
    answer = None
    for kind, seconds, text, value in steps:
        match kind:
            case "run":
                await ctx.step(anyio.sleep, seconds)
            case "ask":
                answer = await ctx.ask(text, timeout=seconds or None)
            case "emit":
                await ctx.emit(text or EMITTED, value)
            case "fail":
                raise StoryFailedError(text)
            case "return":
                return value
    return answer


def _run_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)
