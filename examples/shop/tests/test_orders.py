"""Orders through the shop's own Celery code: chain, error callback, retries, routes."""

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from shop.orders import place
from shop.payments import CardDeclinedError, GatewayDownError, charge
from shop.stock import reserve

if TYPE_CHECKING:
    from conftest import Shop


def test_a_paid_order_is_confirmed(shop: "Shop", taskservice_app: Celery) -> None:
    shop.stocks("lamp", 3)

    order_id, last = place("lamp", 40)

    assert last.get(timeout=10) == f"order {order_id} is on its way"
    assert shop.state_of(order_id) == "paid"
    assert shop.left("lamp") == 2


# Eager mode raises the task's error out of apply_async(), which no broker ever does.
@pytest.mark.taskservice(backend="celery,celery-sim")
def test_a_declined_card_cancels_the_order(
    shop: "Shop", taskservice_app: Celery, taskservice_driver: Any
) -> None:
    shop.stocks("lamp", 1)
    shop.gateway_answers("declined")

    order_id, _ = place("lamp", 40)
    taskservice_driver.settle(timeout=10)

    assert shop.state_of(order_id) == "cancelled"
    assert shop.left("lamp") == 1
    assert shop.mails() == [f"order {order_id} is cancelled"]


def test_a_silent_gateway_is_asked_again(shop: "Shop", taskservice_app: Celery) -> None:
    shop.gateway_answers("down", "down")

    assert charge.delay(7).get(timeout=10) == 7
    assert shop.payments() == ["down", "down", "paid"]


def test_a_dead_gateway_is_asked_four_times(shop: "Shop", taskservice_app: Celery) -> None:
    shop.gateway_answers(*["down"] * 5)

    with pytest.raises(GatewayDownError):
        charge.delay(7).get(timeout=10)

    assert shop.payments() == ["down"] * 4


@pytest.mark.taskservice(backend="celery,celery-sim")
def test_the_last_piece_is_sold_once(shop: "Shop", taskservice_app: Celery, taskservice_driver: Any) -> None:
    shop.stocks("lamp", 1)

    orders = [place("lamp", 40)[0] for _ in range(2)]
    taskservice_driver.settle(timeout=10)

    assert sorted(shop.state_of(order) for order in orders) == ["new", "paid"]
    assert shop.left("lamp") == 0


def test_one_task_through_the_service(shop: "Shop", task_service: Any) -> None:
    shop.stocks("lamp", 1)
    shop.sold("lamp", 40)

    _, order_id = task_service.launch_and_await_task(reserve, 1)

    assert order_id == 1
    assert shop.left("lamp") == 0


def test_an_error_through_the_service(shop: "Shop", task_service: Any) -> None:
    shop.gateway_answers("declined")

    with pytest.raises(CardDeclinedError):
        task_service.launch_and_await_task(charge, 9)


def test_a_retry_through_the_service(shop: "Shop", task_service: Any) -> None:
    shop.gateway_answers("down")

    _, handle = task_service.launch_task(charge, 9)

    assert handle.result(timeout=10) == 9
    assert shop.payments() == ["down", "paid"]
