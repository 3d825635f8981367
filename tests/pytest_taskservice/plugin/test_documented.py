"""The examples of the documentation, word for word, in somebody else's project."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

ROOT = Path(__file__).parents[3]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

_CONFTEST = """
    import pytest
    from shopx import places

    class Gateway:
        def fail(self, times):
            places.failures = times

    @pytest.fixture
    def gateway():
        return Gateway()

    @pytest.fixture
    def anyio_backend():
        return "asyncio"
"""

# What the examples leave to the reader, each as plain as can be.
_PLACES = """
    import time

    failures = 0

    def is_down():
        global failures
        failures -= 1
        return failures >= 0

    def ask_for(count):
        time.sleep(0.001)

    class Reports:
        sent = 0
"""

_TASKS = """
    import time

    from celery.schedules import crontab
    from shopx import places as gateway
    from shopx import places as warehouse
    from shopx.celery import app
    from shopx.places import Reports

    reports, stock = Reports(), {}

    @app.task
    def remind(name):
        return "reminded"

    @app.task
    def expire_coupon():
        return "expired"

    @app.task
    def report():
        reports.sent += 1

    @app.task(name="shop.place_order", acks_late=True)
    def place_order(order):
        time.sleep(5)
        return "placed"

    app.conf.beat_schedule = {"report": {"task": report.name, "schedule": crontab(hour=3, minute=0)}}

"""

_IMPORTS = """
import time

import pytest
from freezegun import freeze_time

from shopx.celery import app
from shopx.tasks import *

"""


def example(page: str, name: str, *, number: int = 0) -> tuple[str, str]:
    """Return the block of a page that has a function called ``name``: the tasks it shows, and the tests."""
    blocks = _BLOCK.findall((ROOT / page).read_text("utf-8"))
    block = [block for block in blocks if f"def {name}(" in block][number]
    tasks, mark, tests = block.rpartition("# tests/")
    return tasks, mark + tests


def play(shop: Downstream, examples: list[tuple[str, str]], world: str, *options: str) -> pytest.RunResult:
    """Run the tests of examples in a world."""
    tasks = "".join(indent(tasks, "    ") for tasks, _ in examples)
    shop.write(conftest=_CONFTEST, shopx__places=_PLACES, shopx__tasks=_TASKS + tasks)
    shop.ini(taskservice_app="shopx.celery:app")
    shop.root.joinpath("test_example.py").write_text(
        _IMPORTS + "\n\n".join(tests for _, tests in examples), "utf-8"
    )
    return shop.run("-p", "anyio", f"--taskservice-backend={world}", *options)


@pytest.mark.parametrize(
    "name",
    [
        "test_a_silent_gateway_is_asked_again_every_minute",
        "test_the_report_is_sent_every_night",
        "test_an_order_survives_its_worker",
    ],
)
def test_an_example_of_the_simulator_is_true(downstream: Downstream, name: str) -> None:
    result = play(downstream, [example("docs/simulator.md", name)], "celery-sim")

    result.assert_outcomes(passed=1)


def test_some_seeds_lose_a_reservation(downstream: Downstream) -> None:
    page = "docs/simulator.md"
    exploring = example(page, "test_stock_is_never_lost")

    result = play(downstream, [exploring], "celery-sim", "--taskservice-seeds=100")

    share = round(100 / result.parseoutcomes()["failed"])
    text = (ROOT / page).read_text("utf-8")
    assert f"One seed in {_NUMBERS[share]} shows it" in text


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


def test_hunting_finds_the_reservation_that_is_lost(downstream: Downstream) -> None:
    page = "docs/simulator.md"
    tasks, _ = example(page, "test_stock_is_never_lost")
    _, hunting = example(page, "test_stock_is_never_lost", number=1)

    result = play(downstream, [(tasks, hunting)], "celery-sim")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 9 == 8*"])


def test_the_examples_of_virtual_time_are_true(downstream: Downstream) -> None:
    page = "docs/time.md"
    reminders = example(page, "test_a_reminder_is_sent_the_next_day")

    result = play(downstream, [reminders, example(page, "test_a_coupon_expires")], "anyio")

    # The first on both event loops, and so for both ways to begin one.
    result.assert_outcomes(passed=5)


def test_the_examples_of_virtual_time_are_true_of_the_simulator(downstream: Downstream) -> None:
    reminders = example("docs/time.md", "test_a_reminder_is_sent_the_next_day")

    result = play(downstream, [reminders], "celery-sim")

    result.assert_outcomes(passed=2)
