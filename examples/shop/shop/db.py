"""The shop's database. SQLite here, so that web process and workers share one file."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

_SCHEMA = """
create table if not exists stock (item text primary key, quantity integer not null);
create table if not exists orders (id integer primary key, item text, amount integer, state text);
create table if not exists payments (order_id integer, outcome text);
create table if not exists mails (recipient text, subject text);
create table if not exists gateway (answers text);
"""


@contextmanager
def connect() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(os.environ["SHOP_DATABASE"], timeout=5.0, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
        yield connection
    finally:
        connection.close()
