"""The periodic report: a task that replaces itself by a chord, on a queue of its own."""

from typing import TYPE_CHECKING

import pytest
from celery import Celery
from shop.celery import app
from shop.reports import daily

if TYPE_CHECKING:
    from conftest import Shop


# Eager mode cannot replace a task by a chord: it would have to wait inside a task.
@pytest.mark.taskservice(backend="celery,celery-sim")
def test_the_report_adds_up_all_items(shop: "Shop", taskservice_app: Celery) -> None:
    shop.stocks("lamp", 1)
    shop.stocks("chair", 1)
    shop.sold("lamp", 40)
    shop.sold("chair", 60)

    assert daily.delay().get(timeout=10) == 100


def test_the_schedule_names_a_task_that_exists(taskservice_app: Celery) -> None:
    entry = taskservice_app.conf.beat_schedule["yesterday in figures"]

    assert entry["task"] in taskservice_app.tasks


def test_the_shop_gets_its_settings_back() -> None:
    assert app.conf.broker_url == "amqp://shop:secret@rabbit.internal:5672/shop"
