"""Refunds, which a clerk has to allow: a workflow that the shop's Celery workers execute."""

from shop.db import connect
from taskservice import WorkflowContext, workflow


@workflow("shop.refund", deadlines={"input": 7 * 86_400})
def refund(ctx: WorkflowContext, order_id: int, amount: int) -> str:
    """Ask whether ``amount`` goes back for an order, and pay it once."""
    if not ctx.ask(f"pay back {amount} for order {order_id}?"):
        return "refused"

    ctx.emit("progress", {"percent": 50})
    ctx.step(pay_back, order_id, amount, key=f"refund-{order_id}")
    return f"paid back {amount}"


def pay_back(order_id: int, amount: int) -> None:
    """Pay, unless it is done: a worker may have died between paying and saying so."""
    with connect() as db:
        db.execute(
            "insert into payments select ?, ? where not exists "
            "(select 1 from payments where order_id = ? and outcome like 'paid back%')",
            (order_id, f"paid back {amount}", order_id),
        )
