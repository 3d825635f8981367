"""Workflows of an app's own, for the contract of workflow control: found by their dotted path."""

from __future__ import annotations

from taskservice.workflow import AsyncWorkflowContext, WorkflowContext, workflow

__all__ = ["patient", "refund", "refund_async"]


@workflow("contract.refund")
def refund(ctx: WorkflowContext, amount: int, *, reason: str = "") -> dict[str, object]:
    """Ask whether to pay back."""
    answer = ctx.ask(f"pay back {amount}?")
    return {"paid": amount if answer else 0, "reason": reason}


@workflow("contract.refund_async")
async def refund_async(ctx: AsyncWorkflowContext, amount: int) -> int:
    """Ask the same in an event loop."""
    return amount if await ctx.ask(f"pay back {amount}?") else 0


@workflow("contract.patient", deadlines={"input": 5.0})
def patient(ctx: WorkflowContext) -> object:
    """Ask for five seconds."""
    return ctx.ask("still there?")
