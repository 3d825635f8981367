"""From what was asked for to a report, with runs that are made up instead of run."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

import pytest

from taskservice.errors import ConfigurationError
from taskservice.load import campaign as campaigns
from taskservice.load.account import Account
from taskservice.load.calls import Call
from taskservice.load.campaign import Campaign, exit_code, run_campaign
from taskservice.load.gates import parse_gate
from taskservice.load.page import render_page
from taskservice.load.plan import LoadPlan
from taskservice.load.report import make_report
from taskservice.load.senders import check_call
from taskservice.load.stack import StackRequest
from taskservice.load.supervise import Loading, Ran
from taskservice.load.terminal import sparkline

if TYPE_CHECKING:
    from collections.abc import Callable

ANYIO = StackRequest(backend="anyio")


def carried(rate: float, *, most: float, lost: int = 0) -> Account:
    """Return the account of ten seconds at ``rate``, of which no more than ``most`` a second end in time."""
    account = Account()
    account.elapsed = 10.0
    account.arrivals = account.measured = account.sent = round(rate * 10)
    account.timely = round(min(rate, most) * 10)
    account.ends["lost"] = lost
    account.ends["done"] = account.arrivals - lost
    account.parts["end_to_end"].add(0.01 if rate <= most else 5.0, account.arrivals)
    return account


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], Ran]], None]:
    """A function that takes what a run at a rate comes to."""

    def use(make: Callable[[float], Ran]) -> None:
        def run_load(loading: Loading, *_: Any, **__: Any) -> Ran:
            assert loading.plan.rate is not None
            return make(loading.plan.rate)

        monkeypatch.setattr(campaigns, "run_load", run_load)

    return use


def search(goal: str, rate: float = 100.0) -> tuple[Any, list[str]]:
    told: list[str] = []
    campaign = Campaign(
        plan=LoadPlan(rate=rate), kinds=("TaskUser",), stack=ANYIO, goal=parse_gate(goal), precision=0.1
    )
    return run_campaign(campaign, progress=lambda _: None, tell=told.append), told


def test_the_highest_rate_that_holds_the_goal_is_reported_with_its_trials(
    ran: Callable[[Callable[[float], Ran]], None],
) -> None:
    ran(lambda rate: Ran(account=carried(rate, most=730), started=time(), ended="done"))

    report, told = search("p95<200ms")

    assert report.limit == 700
    assert report.figures["throughput"] == 700
    assert [(trial["rate"], trial["held"]) for trial in report.trials[:4]] == [
        (100.0, True), (200.0, True), (400.0, True), (800.0, False)
    ]  # fmt: skip
    assert "800/s missed: p95 5.00 s, carried 730/s of 800/s" in told
    assert "700/s" in render_page(report)


@pytest.mark.parametrize("goal", ["p95<10s", "p95<1h"])
def test_a_rate_that_is_not_carried_does_not_hold_whatever_its_latency(
    goal: str, ran: Callable[[Callable[[float], Ran]], None]
) -> None:
    ran(lambda rate: Ran(account=carried(rate, most=150), started=time(), ended="done"))

    report, _ = search(goal)

    assert report.limit is not None
    assert report.limit <= 158


def test_a_rate_that_loses_runs_does_not_hold(ran: Callable[[Callable[[float], Ran]], None]) -> None:
    ran(lambda rate: Ran(account=carried(rate, most=1e6, lost=1), started=time(), ended="done"))

    report, told = search("p95<200ms", rate=2.0)

    assert report.limit is None
    assert "1 failed or lost" in told[1]


def test_a_search_that_is_interrupted_reports_its_last_trial(
    ran: Callable[[Callable[[float], Ran]], None],
) -> None:
    ends = iter(["done", "interrupted"])
    ran(lambda rate: Ran(account=carried(rate, most=1e6), started=time(), ended=next(ends)))

    report, _ = search("p95<200ms")

    assert exit_code(report) == 130
    assert report.limit is None


def test_a_lost_run_fails_without_any_gate(ran: Callable[[Callable[[float], Ran]], None]) -> None:
    ran(lambda rate: Ran(account=carried(rate, most=1e6, lost=1), started=time(), ended="done"))
    campaign = Campaign(plan=LoadPlan(rate=10.0), kinds=("TaskUser",), stack=ANYIO)

    report = run_campaign(campaign, progress=lambda _: None, tell=lambda _: None)

    assert exit_code(report) == 1


def test_users_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="users are of task, workflow, celery, api"):
        Campaign(plan=LoadPlan(), kinds=("Buyer",), stack=ANYIO)


def test_a_celery_task_without_a_result_backend_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="set result_backend"):
        check_call(Call(name="shop.pack", how="celery"), {})


def test_a_report_hides_the_token() -> None:
    plan = LoadPlan(token="secret-token", redirect="redis://:password@host/0")

    assert "secret-token" not in str(
        make_report(
            Ran(account=Account(), started=time(), ended="done"), plan, title="x", stack=(), gates=()
        ).to_json()
    )


def test_a_sparkline_shows_the_most_of_each_share() -> None:
    assert sparkline([0, 1, 2, 7]) == "▁▂▃█"
    assert sparkline([0, 9, 0, 0], width=2) == "█▁"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
