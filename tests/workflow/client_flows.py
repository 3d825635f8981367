"""Workflows of the client's tests; their worker imports this module too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from taskservice import WorkflowContext, workflow

if TYPE_CHECKING:
    from taskservice import AsyncWorkflowContext


class Approval(BaseModel):
    approved: bool


class DeclinedError(Exception):
    def __init__(self, order: str) -> None:
        super().__init__(order)
        self.order = order


@workflow("client.refund")
def refund(ctx: WorkflowContext, order: str) -> str:
    answer = ctx.ask("approve?", schema=Approval, data={"order": order})
    ctx.emit("progress", {"percent": 50})
    if not answer.approved:
        raise DeclinedError(order)
    return f"paid {order}"


@workflow("client.refund_async")
async def refund_async(ctx: AsyncWorkflowContext, order: str) -> str:
    answer = await ctx.ask("approve?", schema=Approval, data={"order": order})
    await ctx.emit("progress", {"percent": 50})
    if not answer.approved:
        raise DeclinedError(order)
    return f"paid {order}"


@workflow("client.anything")
def anything(ctx: WorkflowContext) -> list[Any]:
    return [ctx.ask("first?"), ctx.ask("second?")]


@workflow("client.whose")
def whose(ctx: WorkflowContext, owner: str) -> list[str]:
    return [ctx.owner, owner]


@workflow("client.talk")
def talk(ctx: WorkflowContext, words: int) -> None:
    for number in range(words):
        ctx.emit("word", number)
    ctx.ask("more?")
    for number in range(words, 2 * words):
        ctx.emit("word", number)


talk_trimmed = workflow("client.talk_trimmed", deadlines={"max_events": 6})(talk.func)


@workflow("client.talk_when_told")
def talk_when_told(ctx: WorkflowContext, words: int) -> None:
    ctx.ask("begin?")
    for number in range(words):
        ctx.emit("word", number)


@workflow("client.short_kept", deadlines={"kept": 0.05})
def short_kept(ctx: WorkflowContext) -> None:
    ctx.ask("anybody?")


@workflow("client.held")
def held(ctx: WorkflowContext, gate: str) -> str:
    ctx.emit("reached")
    ctx.step(wait_for, gate)
    return "through"


def wait_for(gate: str) -> None:
    deadline = time.monotonic() + 30
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(gate)
        time.sleep(0.005)
