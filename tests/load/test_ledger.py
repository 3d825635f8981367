"""The ledger without Locust: a clock that is moved by hand, and messages as the engine sends them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskservice.load.account import Account
from taskservice.load.figures import all_figures
from taskservice.load.ledger import Ledger
from taskservice.load.plan import LoadPlan

OPEN = LoadPlan(rate=10.0, duration=10.0)
CLOSED = LoadPlan(users=2, duration=10.0)


class Bench:
    """A ledger, its clock, and what Locust was told."""

    def __init__(self, warmup: float = 0.0) -> None:
        self.now = 1000.0
        self.told: list[tuple[str, float, bool]] = []
        self.ledger = Ledger(self._fire, warmup=warmup, clock=lambda: self.now)

    def _fire(self, **said: Any) -> None:
        self.told.append((said["request_type"], said["response_time"], said["exception"] is not None))

    def run(self, due: float, *, began: float, ended: float, error: str = "") -> None:
        self.now = began
        flight = self.ledger.depart("shop.pack", due)
        flight.started = began
        self.ledger.hear(["sent", flight.number, began, began + 0.01])
        self.now = ended
        self.ledger.hear(["over", flight.number, ended, error, 0.2, 0.3])


def test_a_run_counts_from_when_it_was_due() -> None:
    bench = Bench()

    bench.run(due=1001.0, began=1003.0, ended=1003.5)

    figures = all_figures(bench.ledger.account, OPEN)
    assert figures["p50"] == pytest.approx(2.5, rel=0.01)
    assert figures["uncorrected.p50"] == pytest.approx(0.5, rel=0.01)
    assert figures["enqueue.p50"] == pytest.approx(0.01, rel=0.01)
    assert figures["queue_wait.p50"] == pytest.approx(0.2, rel=0.01)
    assert figures["run.p50"] == pytest.approx(0.3, rel=0.01)


def test_users_that_send_when_they_can_are_corrected_for_what_they_left_out() -> None:
    bench = Bench()
    for number in range(9):
        bench.run(due=1000 + number, began=1000 + number, ended=1000 + number + 0.1)

    bench.run(due=1010, began=1010, ended=1015)

    figures = all_figures(bench.ledger.account, CLOSED)
    assert figures["uncorrected.p90"] == pytest.approx(0.1, rel=0.02)
    assert figures["p90"] == pytest.approx(4.4, rel=0.1)


def test_locust_hears_of_each_part_apart_and_of_failures() -> None:
    bench = Bench()

    bench.run(due=1000.0, began=1000.0, ended=1001.0)
    bench.run(due=1002.0, began=1002.0, ended=1003.0, error="ValueError: no stock")

    assert [(kind, round(ms), failed) for kind, ms, failed in bench.told] == [
        ("enqueue", 10, False),
        ("queue wait", 200, False),
        ("run", 300, False),
        ("end to end", 1000, False),
        ("enqueue", 10, False),
        ("queue wait", 200, False),
        ("run", 300, False),
        ("end to end", 1000, True),
    ]
    assert bench.ledger.account.errors == {"ValueError: no stock": 1}


def test_the_warm_up_counts_for_no_latency_and_for_every_account() -> None:
    bench = Bench(warmup=5.0)

    bench.run(due=1001.0, began=1001.0, ended=1002.0)
    bench.run(due=1006.0, began=1006.0, ended=1006.5)
    bench.now = 1007.0
    bench.ledger.stop()

    account = bench.ledger.account
    assert (account.arrivals, account.ends["done"]) == (2, 2)
    assert account.parts["end_to_end"].count == 1
    assert all_figures(account, OPEN)["throughput"] == 0.5


def test_what_ends_after_the_stop_is_no_throughput() -> None:
    bench = Bench()
    late = bench.ledger.depart("shop.pack", 1000.0)
    bench.run(due=1000.0, began=1000.0, ended=1001.0)
    bench.now = 1002.0
    bench.ledger.stop()

    bench.ledger.hear(["over", late.number, 1003.0, "", None, None])

    figures = all_figures(bench.ledger.account, OPEN)
    assert figures["done"] == 2
    assert figures["throughput"] == 0.5


def test_every_run_has_one_end() -> None:
    bench = Bench()
    flights = [bench.ledger.depart("shop.pack", 1000.0) for _ in range(5)]
    bench.ledger.hear(["refused", flights[0].number, 1000.0, 1000.1, "no broker"])
    bench.ledger.hear(["over", flights[1].number, 1001.0, "", None, None])

    bench.ledger.settle({flights[2].number: "queued", flights[3].number: "lost"})

    account = bench.ledger.account
    assert account.ends == {"refused": 1, "done": 1, "queued": 1, "lost": 1}
    assert account.open_runs == 1
    assert all_figures(account, OPEN)["unknown"] == 1
    assert all_figures(account, OPEN)["failures"] == 1


def test_an_engine_that_dies_leaves_nobody_waiting() -> None:
    bench = Bench()
    flight = bench.ledger.depart("shop.pack", 1000.0)

    bench.ledger.hear(["gone"])

    assert flight.ended
    assert bench.ledger.account.ends == {"unknown": 1}


def test_accounts_of_two_processes_are_added_second_by_second() -> None:
    left, right = Bench(), Bench()
    left.run(due=1000.0, began=1000.0, ended=1000.5)
    right.run(due=1000.0, began=1000.0, ended=1000.5, error="ValueError: no")
    left.ledger.hear(["backlog", 5.0, 7, 2])
    right.ledger.hear(["backlog", 5.0, 9, None])

    both = Account()
    for bench in (left, right):
        both.merge(Account.from_json(json.loads(json.dumps(bench.ledger.account.to_json()))))

    assert (both.arrivals, both.ends["done"], both.ends["failed"]) == (2, 1, 1)
    assert (both.seconds[5].waiting, both.seconds[5].unacked) == (9, 2)
    assert sum(second.arrivals for second in both.seconds.values()) == 2


def test_a_master_keeps_the_seconds_that_are_not_sent_again() -> None:
    bench = Bench()
    bench.ledger.hear(["backlog", 5.0, 7, 2])
    first = Account.from_json(bench.ledger.account.to_json())
    bench.ledger.hear(["backlog", 20.0, 1, 0])

    second = Account.from_json(bench.ledger.account.to_json(since=18.0), before=first)

    assert {at: each.waiting for at, each in second.seconds.items()} == {5: 7, 20: 1}
