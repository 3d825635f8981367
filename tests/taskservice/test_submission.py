from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from taskservice import LaunchOptionError, LaunchOptions, RetryPolicy, TaskRegistry, task
from taskservice.submission import check_visibility, plan_launch

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
NAIVE = datetime(2030, 1, 1, 12)  # noqa: DTZ001 - what is refused
SOON = NOW + timedelta(minutes=1)

SPANS = st.floats(min_value=1e-3, max_value=1e8)
INSTANTS = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
    max_value=datetime(2060, 1, 1),  # noqa: DTZ001 - the same
    timezones=st.timezones(),
)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"countdown": -1}, "countdown: need 0 or more seconds, got -1"),
        ({"countdown": float("nan")}, "countdown: need a finite number of seconds, got nan"),
        ({"countdown": float("inf")}, "countdown: need a finite number of seconds, got inf"),
        ({"countdown": "5"}, "countdown: need a number of seconds, got '5'"),
        ({"countdown": True}, "countdown: need a number of seconds, got True"),
        ({"countdown": 1, "eta": SOON}, "countdown: give it or an eta, not both"),
        ({"eta": NAIVE}, "eta: need a datetime with a time zone, got 2030-01-01 12:00:00"),
        ({"eta": 5}, "eta: need a datetime, got 5"),
        ({"expires": NAIVE}, "expires: need a datetime with a time zone"),
        ({"expires": 0}, "expires: need more than 0 seconds, got 0"),
        ({"expires": -2.5}, "expires: need more than 0 seconds, got -2.5"),
        ({"expires": float("-inf")}, "expires: need a finite number"),
        ({"priority": 10}, "priority: need 0 to 9, got 10"),
        ({"priority": -1}, "priority: need 0 to 9, got -1"),
        ({"priority": 1.0}, "priority: need a whole number, got 1.0"),
        ({"priority": True}, "priority: need a whole number, got True"),
        ({"queue": ""}, "queue: need a name, got ''"),
        ({"queue": "  "}, "queue: need a name, got '  '"),
    ],
)
def test_options_that_cannot_be_meant_cannot_be_built(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchOptionError) as caught:
        LaunchOptions(**wrong)

    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LaunchOptions(expires=NOW), "is in the past, it is"),
        (LaunchOptions(expires=NOW - timedelta(hours=1)), "is in the past, it is"),
        (LaunchOptions(countdown=10, expires=10), "is not after the eta"),
        (LaunchOptions(eta=SOON, expires=59), "is not after the eta"),
        (LaunchOptions(countdown=61, expires=SOON), "is not after the eta"),
        (
            LaunchOptions(countdown=1e12),
            r"countdown: 1000000000000\.0 is beyond the calendar",
        ),
        (LaunchOptions(expires=10**15), "expires: 1000000000000000 is beyond the calendar"),
    ],
)
def test_a_launch_the_clock_forbids_is_refused(options: LaunchOptions, message: str) -> None:
    with pytest.raises(LaunchOptionError, match=message):
        plan_launch(options, now=NOW)


def test_relative_times_count_from_the_launch() -> None:
    plan = plan_launch(LaunchOptions(countdown=5, expires=90, priority=3, queue="slow"), now=NOW)

    assert plan.eta == datetime(2030, 1, 1, 12, 0, 5, tzinfo=UTC)
    assert plan.expires == datetime(2030, 1, 1, 12, 1, 30, tzinfo=UTC)
    assert (plan.delay, plan.priority, plan.queue) == (5.0, 3, "slow")


def test_an_eta_of_another_time_zone_is_the_same_instant() -> None:
    eta = datetime(2030, 1, 1, 14, 0, 5, tzinfo=timezone(timedelta(hours=2)))

    plan = plan_launch(LaunchOptions(eta=eta), now=NOW)

    assert (plan.eta, plan.delay) == (eta, 5.0)


def test_an_eta_that_is_over_is_now() -> None:
    assert plan_launch(LaunchOptions(eta=NOW - timedelta(days=1)), now=NOW).delay == 0.0


def test_the_calls_expiry_stands_over_the_tasks() -> None:
    own = plan_launch(LaunchOptions(), now=NOW, expires=30)
    called = plan_launch(LaunchOptions(expires=60), now=NOW, expires=30)

    assert own.expires == datetime(2030, 1, 1, 12, 0, 30, tzinfo=UTC)
    assert called.expires == datetime(2030, 1, 1, 12, 1, tzinfo=UTC)


def test_a_start_beyond_the_visibility_timeout_names_both_numbers_and_the_hazard() -> None:
    plan = plan_launch(LaunchOptions(countdown=7200), now=NOW)

    with pytest.raises(LaunchOptionError, match=r"7200 s away.*visibility_timeout is 3600 s.*more than once"):
        check_visibility(plan, 3600)
    check_visibility(plan, 7201)


@given(span=SPANS, until=st.none() | SPANS, now=INSTANTS)
def test_a_planned_run_can_always_start(span: float, until: float | None, now: datetime) -> None:
    assume(until is None or until > span + 1e-3)

    plan = plan_launch(LaunchOptions(countdown=span, expires=until), now=now)

    assert plan.eta is not None
    assert plan.eta.utcoffset() == timedelta(0)
    assert plan.delay == pytest.approx(span, abs=1e-5)
    assert not plan.expired(plan.eta)
    assert plan.expires is None or plan.expired(plan.expires + timedelta(microseconds=1))


@given(eta=INSTANTS, expires=INSTANTS, now=INSTANTS)
def test_instants_are_planned_or_refused_and_never_pass_silently(
    eta: datetime, expires: datetime, now: datetime
) -> None:
    options = LaunchOptions(eta=eta, expires=expires)
    # In UTC: an hour that a zone has twice equals nothing in any other zone.
    start, end, present = (instant.astimezone(UTC) for instant in (eta, expires, now))

    if end > present and end > start:
        assert plan_launch(options, now=now).expires == end
    else:
        with pytest.raises(LaunchOptionError, match="expires"):
            plan_launch(options, now=now)


@given(value=st.floats() | st.integers() | st.text(max_size=3) | st.booleans() | st.none())
def test_whatever_comes_as_a_countdown_is_taken_or_refused_with_its_name(value: Any) -> None:
    try:
        plan_launch(LaunchOptions(countdown=value), now=NOW)
    except LaunchOptionError as error:
        assert error.option == "countdown"  # noqa: PT017 - most values are fine


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"priority": 11}, "priority: need 0 to 9"),
        ({"queue": ""}, "queue: need a name"),
        ({"expires": 0}, "expires: need more than 0"),
        ({"soft_time_limit": -1}, "soft_time_limit: need more than 0"),
        ({"time_limit": float("nan")}, "time_limit: need a finite number"),
        (
            {"soft_time_limit": 5, "time_limit": 5},
            "soft_time_limit: need less than the time_limit of 5, got 5",
        ),
    ],
)
def test_a_task_with_options_that_cannot_be_meant_is_not_declared(
    wrong: dict[str, Any], message: str
) -> None:
    registry = TaskRegistry()

    with pytest.raises(LaunchOptionError, match=message):
        task(registry=registry, retry=RetryPolicy(), **wrong)(print)

    assert len(registry) == 0
