"""A workflow that asks its user, and a client that answers; run it with ``python examples/refund.py``."""

from __future__ import annotations

import anyio
from pydantic import BaseModel

from taskservice import (
    AnyIOBackend,
    TaskService,
    WorkflowClient,
    WorkflowContext,
    WorkflowExpiredError,
    workflow,
)

LOADED: list[int] = []
PAID: dict[str, int] = {}


class Approval(BaseModel):
    approved: bool


def load_order(order_id: int) -> dict[str, int]:
    LOADED.append(order_id)
    return {"id": order_id, "amount": 12}


def pay_back(amount: int, idempotency_key: str) -> int:
    # A worker may die between paying and saying so: the step is then done again, with the same key.
    return PAID.setdefault(idempotency_key, amount)


@workflow("refund", deadlines={"input": 3600})
def refund(ctx: WorkflowContext, order_id: int) -> int | None:
    order = ctx.step(load_order, order_id)
    answer = ctx.ask(f"pay back {order['amount']}?", schema=Approval, data=order)
    ctx.emit("progress", {"percent": 50})
    return ctx.step(pay_back, order["amount"], key=f"refund-{order_id}") if answer.approved else None


async def main() -> None:
    answers = iter([{"approved": "perhaps"}, {"approved": True}])
    async with TaskService(AnyIOBackend()) as service, WorkflowClient(service) as client:
        ann, bob = client.for_owner("ann"), client.for_owner("bob")
        run_id = await ann.start(refund, 7)

        async for event in ann.events(run_id):
            print(event.id, event.kind, event.data.get("status", event.data))
            if event.kind == "question":
                print("asked:", event.data["prompt"], event.data.get("problem", ""))
                await ann.send_input(run_id, next(answers), event.data["id"])

        print("result:", await ann.result(run_id))
        print("again:", [event.id async for event in ann.events(run_id, after=8)])
        print("loaded once:", LOADED)
        try:
            await bob.status(run_id)
        except WorkflowExpiredError as error:
            print("bob:", error.code)


if __name__ == "__main__":
    anyio.run(main)
