"""Workflows of the tests with real workers; the workers import this module too."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from taskservice.workflow import WorkflowContext, workflow

if TYPE_CHECKING:
    from taskservice.workflow import AsyncWorkflowContext


class Approval(BaseModel):
    approved: bool


def note(folder: str, text: str) -> str:
    with (Path(folder) / "diary").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return text


def hold(folder: str, name: str) -> int:
    """Say that we are here, and stay until the gate is open."""
    (Path(folder) / f"{name}.pid").write_text(str(os.getpid()), encoding="utf-8")
    deadline = time.monotonic() + 30
    while not (Path(folder) / f"{name}.gate").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.005)
    return os.getpid()


@workflow("flows.refund")
def refund(ctx: WorkflowContext, folder: str, order: str) -> str | None:
    ctx.step(note, folder, f"load {order}")
    answer = ctx.ask("approve?", schema=Approval, data={"order": order})
    ctx.emit("progress", {"percent": 50})
    if not answer.approved:
        return None
    return str(ctx.step(note, folder, f"pay {order}"))


@workflow("flows.refund_async")
async def refund_async(ctx: AsyncWorkflowContext, folder: str, order: str) -> str | None:
    await ctx.step(note, folder, f"load {order}")
    answer = await ctx.ask("approve?", schema=Approval, data={"order": order})
    await ctx.emit("progress", {"percent": 50})
    if not answer.approved:
        return None
    return str(await ctx.step(note, folder, f"pay {order}"))


@workflow("flows.held", deadlines={"lease": 1.0})
def held(ctx: WorkflowContext, folder: str) -> str:
    ctx.step(note, folder, "before")
    ctx.emit("progress", {"percent": 10})
    ctx.step(hold, folder, "held")
    return str(ctx.step(note, folder, "after"))


held_apart = workflow("flows.held_apart", queue="apart", deadlines={"lease": 1.0})(held.func)


@workflow("flows.elsewhere", queue="elsewhere", deadlines={"busy": 0.3})
def elsewhere(ctx: WorkflowContext, folder: str) -> None:
    ctx.step(note, folder, "too late")


@workflow("flows.elsewhere_patient", queue="elsewhere", deadlines={"busy": 30})
def elsewhere_patient(ctx: WorkflowContext, folder: str) -> None:
    ctx.step(note, folder, "in time")


@workflow("flows.impatient", deadlines={"input": 0.2})
def impatient(ctx: WorkflowContext) -> None:
    ctx.ask("anybody?")


@workflow("flows.silent", deadlines={"stale": 0.5})
def silent(ctx: WorkflowContext, folder: str) -> None:
    ctx.step(hold, folder, "silent")
    ctx.step(note, folder, "after")


@workflow("flows.fickle")
def fickle(ctx: WorkflowContext, folder: str) -> None:
    """Differ from run to run, as a function does that was changed meanwhile."""
    ctx.step(hold if (Path(folder) / "changed").exists() else note, folder, "first")
    ctx.ask("go on?")


@workflow("flows.quick")
def quick(ctx: WorkflowContext) -> str:
    return ctx.run_id


@workflow("flows.forgotten", deadlines={"stale": 0.5, "kept": 3.0})
def forgotten(ctx: WorkflowContext, folder: str) -> None:
    ctx.step(hold, folder, "forgotten")
    ctx.step(note, folder, "after")


@workflow("flows.queued", deadlines={"busy": 2})
def queued(ctx: WorkflowContext, folder: str) -> None:
    ctx.step(note, folder, "too late")


@workflow("flows.asking", deadlines={"busy": 2})
def asking(ctx: WorkflowContext, folder: str) -> None:
    if ctx.ask("go on?"):
        ctx.step(note, folder, "too late")
