from typing import TYPE_CHECKING, Any

from celery import chain

from shop.celery import app
from shop.db import connect
from shop.mail import confirm, send
from shop.payments import charge
from shop.stock import release, reserve

if TYPE_CHECKING:
    from celery.result import AsyncResult


def place(item: str, amount: int) -> "tuple[int, AsyncResult[Any]]":
    """Store an order and start its way through stock, payment and mail."""
    with connect() as db:
        cursor = db.execute("insert into orders (item, amount, state) values (?, ?, 'new')", (item, amount))
        order_id = int(cursor.lastrowid or 0)
    steps = chain(
        reserve.s(order_id),
        charge.s().on_error(cancel.si(order_id)),
        confirm.s(),
    )
    return order_id, steps.apply_async()


@app.task
def cancel(order_id: int) -> None:
    """Undo a reservation whose payment failed, and say so."""
    release(order_id)
    with connect() as db:
        db.execute("update orders set state = 'cancelled' where id = ?", (order_id,))
    send.delay("customer", f"order {order_id} is cancelled")
