"""Tasks and workflows that the API of the tests offers; the workers import this module too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from taskservice import RetryPolicy, task
from taskservice.workflow import WorkflowContext, workflow


class Approval(BaseModel):
    approved: bool


@task(name="api.add")
def add(left: int, right: int) -> int:
    return left + right


@task(name="api.fail", retry=RetryPolicy(max_attempts=1))
def fail(word: str) -> None:
    raise ValueError(word)


@task(name="api.odd")
def odd() -> dict[str, Any]:
    return {"at": datetime(2026, 1, 2, tzinfo=UTC), "raw": b"\x00", "nan": float("nan"), "half": "\ud800"}


@task(name="api.same", idempotency_key=lambda word: word)
def same(word: str) -> str:
    return word


@workflow("api.refund")
def refund(ctx: WorkflowContext, order: str, owner: str = "nobody") -> dict[str, Any]:
    ctx.emit("progress", {"percent": 50})
    answer = ctx.ask("approve?", schema=Approval, data={"order": order})
    return {"order": order, "approved": answer.approved, "owner": owner}


@workflow("api.fails")
def fails(ctx: WorkflowContext) -> None:
    raise ValueError("no such order")


@workflow("api.chatty")
def chatty(ctx: WorkflowContext, count: int) -> int:
    for number in range(count):
        ctx.emit("word", {"number": number})
    return count
