from shop.celery import app
from shop.db import connect


class SoldOutError(Exception):
    """Nothing left to reserve."""


@app.task
def reserve(order_id: int) -> int:
    """Take one piece for the order, in one statement, so that two workers never take the last one."""
    with connect() as db:
        taken = db.execute(
            "update stock set quantity = quantity - 1 "
            "where item = (select item from orders where id = ?) and quantity > 0",
            (order_id,),
        )
        if taken.rowcount == 0:
            raise SoldOutError(order_id)
        db.execute("update orders set state = 'reserved' where id = ?", (order_id,))
    return order_id


@app.task
def release(order_id: int) -> None:
    """Put the order's piece back."""
    with connect() as db:
        db.execute(
            "update stock set quantity = quantity + 1 where item = (select item from orders where id = ?)",
            (order_id,),
        )
