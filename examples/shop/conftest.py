import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from shop.db import connect

# Worker processes are told the environment of the test process, so they find the same file.
_HOME = tempfile.TemporaryDirectory(prefix="shop-")
os.environ["SHOP_DATABASE"] = str(Path(_HOME.name) / "shop.db")


class Shop:
    """What the tests arrange and look at."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def stocks(self, item: str, quantity: int) -> None:
        self._db.execute("insert into stock values (?, ?)", (item, quantity))

    def gateway_answers(self, *answers: str) -> None:
        self._db.executemany("insert into gateway values (?)", [(answer,) for answer in answers])

    def sold(self, item: str, amount: int) -> None:
        self._db.execute("insert into orders (item, amount, state) values (?, ?, 'paid')", (item, amount))

    def state_of(self, order_id: int) -> str:
        row = self._db.execute("select state from orders where id = ?", (order_id,)).fetchone()
        return str(row[0])

    def left(self, item: str) -> int:
        row = self._db.execute("select quantity from stock where item = ?", (item,)).fetchone()
        return int(row[0])

    def payments(self) -> list[str]:
        return [row[0] for row in self._db.execute("select outcome from payments order by rowid")]

    def mails(self) -> list[str]:
        return [row[0] for row in self._db.execute("select subject from mails order by rowid")]


@pytest.fixture
def shop() -> Iterator[Shop]:
    """An empty shop."""
    with connect() as db:
        for table in ("stock", "orders", "payments", "mails", "gateway"):
            db.execute(f"delete from {table}")
        yield Shop(db)
