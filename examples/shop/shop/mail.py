from shop.celery import app
from shop.db import connect


@app.task(ignore_result=True)
def send(recipient: str, subject: str) -> None:
    """Send one mail."""
    with connect() as db:
        db.execute("insert into mails values (?, ?)", (recipient, subject))


@app.task
def confirm(order_id: int) -> str:
    """Tell the customer that the order is paid."""
    subject = f"order {order_id} is on its way"
    with connect() as db:
        db.execute("insert into mails values (?, ?)", ("customer", subject))
    return subject
