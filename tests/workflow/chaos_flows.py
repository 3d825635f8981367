"""Workflows whose steps write down what the journal said as they took effect; workers import this."""

from __future__ import annotations

import json
import os
import time
from secrets import token_hex
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from celery import current_task
from pydantic import BaseModel

from taskservice.workflow import Deadlines, current_step, workflow
from taskservice.workflow.runtime import worker_runtime

if TYPE_CHECKING:
    from taskservice.workflow import AsyncWorkflowContext, WorkflowContext
    from taskservice.workflow.store.base import WorkflowStore

STEPS = ("check", "reserve", "charge", "pack", "ship", "tell")
WORK = 0.15
LIMITS = Deadlines(lease=0.5, busy=120.0, stale=600.0)


class Approval(BaseModel):
    approved: bool


def effect(diary: str, name: str) -> str:
    write(diary, {"begun": current_step().key})
    time.sleep(WORK)
    mine = write_down(diary, name, worker_runtime(current_task.app).store)
    time.sleep(WORK)
    return mine


async def effect_async(diary: str, name: str) -> str:
    write(diary, {"begun": current_step().key})
    await anyio.sleep(WORK)
    # Here, because Celery knows of its task in its own thread alone.
    store = worker_runtime(current_task.app).store
    mine = await to_thread.run_sync(write_down, diary, name, store)
    await anyio.sleep(WORK)
    return mine


def write_down(diary: str, name: str, store: WorkflowStore) -> str:
    """Take effect: a line that says what the journal had by then; return what tells it from any other."""
    step, mine = current_step(), token_hex(8)
    line = {
        "run": step.run_id,
        "index": step.index,
        "name": name,
        "key": step.key,
        "effect": mine,
        "pid": os.getpid(),
        "at": time.time(),
        "finished": len(store.journal(step.run_id)) > step.index,
    }
    write(diary, line)
    return mine


def write(diary: str, line: dict[str, object]) -> None:
    # One write to the end of a file: lines of processes that die do not mix.
    file = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(line).encode() + b"\n")
    os.close(file)


@workflow("chaos.order", deadlines=LIMITS)
def order(ctx: WorkflowContext, diary: str, number: int) -> list[object]:
    effects = [ctx.step(effect, diary, name) for name in STEPS[:3]]
    ctx.emit("half", number)
    answer = ctx.ask("ship it?", schema=Approval)
    effects += [ctx.step(effect, diary, name) for name in STEPS[3:]]
    return [number, answer.approved, *effects]


@workflow("chaos.order_async", deadlines=LIMITS)
async def order_async(ctx: AsyncWorkflowContext, diary: str, number: int) -> list[object]:
    effects = [await ctx.step(effect_async, diary, name) for name in STEPS[:3]]
    await ctx.emit("half", number)
    answer = await ctx.ask("ship it?", schema=Approval)
    effects += [await ctx.step(effect_async, diary, name) for name in STEPS[3:]]
    return [number, answer.approved, *effects]
