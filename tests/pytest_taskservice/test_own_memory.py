"""What a task changes in the memory of its process, found in its source."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import Counter
from typing import Any, ClassVar

import pytest
from celery import Celery

from pytest_taskservice.drivers.own_memory import changed_by

app = Celery("memory")
calls: list[int] = []
totals: Counter[str] = Counter()
done = threading.Event()
letters: queue.Queue[str] = queue.Queue()
level = 0


class Shop:
    sold = 0
    log: ClassVar[list[str]] = []


@app.task
def appends(number: int) -> None:
    calls.append(number)


@app.task(bind=True, autoretry_for=(OSError,))
def counts(self: Any, kind: str) -> None:
    totals[kind] += 1
    self.kind = kind


@app.task
def tells() -> None:
    done.set()
    letters.put("done")


@app.task
def raises_a_level() -> None:
    global level  # noqa: PLW0603 - what is looked for
    level += 1


@app.task
def sells() -> None:
    Shop.sold += 1
    Shop.log.append("sold")
    json.loads("{}").update({})


@app.task
def sets_a_variable() -> None:
    os.environ["SHOP"] = "open"


@app.task
def asks_another() -> None:
    note("asked")


def note(text: str) -> None:
    Shop.log.append(text)
    asks_another.apply_async()


@app.task
def has_its_own(calls: list[int]) -> int:
    found = {"seen": len(totals), "level": level}
    found["calls"] = len(calls)
    calls.append(1)
    return sum(found.values())


class Typed(app.Task):  # type: ignore[name-defined, misc] # made by the app
    name = "typed"

    def run(self) -> None:
        calls.clear()


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (appends, ["calls"]),
        (counts, ["totals"]),
        (tells, ["done", "letters"]),
        (raises_a_level, ["level"]),
        (sells, ["Shop.sold", "Shop.log"]),
        (asks_another, ["Shop.log"]),
        (app.register_task(Typed()), ["calls"]),
    ],
)
def test_what_outlives_a_run_is_found(task: Any, names: list[str]) -> None:
    assert sorted(changed_by(task)) == sorted(f"{__name__}.{name}" for name in names)


def test_a_modules_own_is_named_as_it_is_written() -> None:
    assert changed_by(sets_a_variable) == ["os.environ"]


def test_what_a_run_has_to_itself_is_not() -> None:
    assert changed_by(has_its_own) == []


def test_what_a_task_closes_over_is_found() -> None:
    seen: list[int] = []

    @app.task
    def sees(number: int) -> None:
        seen.append(number)

    assert changed_by(sees) == ["seen, which it closes over"]


def test_a_task_without_source_changes_nothing() -> None:
    space: dict[str, Any] = {"calls": calls}
    exec("def made():\n    calls.append(1)\n", space)

    made: Any = app.task(space["made"])

    assert changed_by(made) == []
