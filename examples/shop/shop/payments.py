from typing import Any

from shop.celery import app
from shop.db import connect


class GatewayDownError(ConnectionError):
    """The payment gateway did not answer; trying again may help."""


class CardDeclinedError(Exception):
    """The bank said no; trying again will not help."""


def _ask_gateway() -> str:
    """Return the gateway's next answer: the shop's own stand-in for an HTTP call."""
    with connect() as db:
        row = db.execute("select rowid, answers from gateway order by rowid limit 1").fetchone()
        if row is None:
            return "paid"
        db.execute("delete from gateway where rowid = ?", (row[0],))
        return str(row[1])


@app.task(
    bind=True,
    autoretry_for=(GatewayDownError,),
    retry_kwargs={"max_retries": 3, "countdown": 0.05},
)
def charge(self: Any, order_id: int) -> int:
    """Charge the order's card; a silent gateway is asked four times in all."""
    answer = _ask_gateway()
    with connect() as db:
        db.execute("insert into payments values (?, ?)", (order_id, answer))
    if answer == "down":
        raise GatewayDownError(order_id, self.request.retries)
    if answer == "declined":
        raise CardDeclinedError(order_id)
    with connect() as db:
        db.execute("update orders set state = 'paid' where id = ?", (order_id,))
    return order_id
