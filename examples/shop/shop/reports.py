from typing import Any

from celery import chord

from shop.celery import app
from shop.db import connect


@app.task
def revenue_of(item: str) -> int:
    """Return what one item has brought in."""
    with connect() as db:
        row = db.execute(
            "select coalesce(sum(amount), 0) from orders where item = ? and state = 'paid'", (item,)
        ).fetchone()
    return int(row[0])


@app.task
def add_up(revenues: list[int]) -> int:
    """Return the total."""
    return sum(revenues)


@app.task(bind=True)
def daily(self: Any) -> Any:
    """Sum up the revenue, one task per item; run by the schedule at six."""
    with connect() as db:
        items = [row[0] for row in db.execute("select item from stock order by item")]
    return self.replace(chord([revenue_of.s(item) for item in items], add_up.s()))
