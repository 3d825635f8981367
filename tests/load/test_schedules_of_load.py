from __future__ import annotations

from itertools import islice, pairwise, takewhile

import pytest

from taskservice.errors import ConfigurationError
from taskservice.load.arrivals import arrivals
from taskservice.load.capacity import Trial, find_limit
from taskservice.load.plan import LoadPlan
from taskservice.load.profiles import Profile
from taskservice.load.quantities import parse_rate, parse_span, show_span


def test_sources_together_come_to_their_rate() -> None:
    due = [
        each
        for source in range(20)
        for each in takewhile(lambda at: at < 10, arrivals(25.0, "poisson", seed=7, source=source))
    ]

    assert len(due) == pytest.approx(20 * 25 * 10, rel=0.05)


def test_the_same_seed_gives_the_same_arrivals_and_another_source_others() -> None:
    def first(seed: int, source: int) -> list[float]:
        return list(islice(arrivals(10.0, "poisson", seed=seed, source=source), 50))

    assert first(1, 0) == first(1, 0)
    assert first(1, 0) != first(1, 1)
    assert first(1, 0) != first(2, 0)


def test_constant_arrivals_are_evenly_apart() -> None:
    due = list(islice(arrivals(4.0, "constant", seed=0, source=3), 5))

    assert 0 <= due[0] < 0.25
    assert [round(later - earlier, 9) for earlier, later in pairwise(due)] == [0.25] * 4


def test_a_spike_comes_after_a_quarter_and_goes_again() -> None:
    spike = Profile(name="spike", users=10, duration=60, factor=5)

    assert [spike.users_at(at) for at in (0, 14, 15, 24, 25, 59, 60)] == [10, 10, 50, 50, 10, 10, None]


def test_a_ramp_a_soak_and_steps() -> None:
    ramp = Profile(name="ramp", users=100, duration=100)
    soak = Profile(name="soak", users=100, duration=1000)
    steps = Profile(name="steps", users=10, duration=100, steps=4)

    assert [ramp.users_at(at) for at in (0, 50, 99)] == [1, 50, 99]
    assert [soak.users_at(at) for at in (0, 50, 100, 999)] == [1, 50, 100, 100]
    assert [steps.users_at(at) for at in (0, 24, 25, 99)] == [10, 10, 20, 40]
    assert steps.most == 40


@pytest.mark.parametrize(
    "said",
    [
        {"users": 0},
        {"duration": 0.0},
        {"rate": 0.0},
        {"rate": 10.0, "pace": 1.0},
        {"warmup": 10.0, "duration": 10.0},
        {"shape": "cliff"},
        {"shape": "spike", "factor": 1.0},
        {"until": "p96>1s"},
    ],
)
def test_a_plan_that_cannot_be_meant_cannot_be_made(said: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        LoadPlan(**said)  # type: ignore[arg-type]


def test_a_plan_crosses_processes() -> None:
    plan = LoadPlan(rate=500.0, shape="spike", duration=30.0)

    assert LoadPlan.from_json(plan.to_json()) == plan
    assert plan.user_count * plan.source_rate == 500.0


def test_the_limit_is_doubled_towards_and_then_closed_in_on() -> None:
    limit, trials = find_limit(100, lambda rate: Trial(rate=rate, held=rate <= 730, why=""), precision=0.1)

    assert [trial.rate for trial in trials] == [100, 200, 400, 800, 600, 700, 750]
    assert limit == 700


def test_a_first_rate_that_is_too_high_is_come_down_from() -> None:
    limit, trials = find_limit(1000, lambda rate: Trial(rate=rate, held=rate <= 40, why=""), precision=0.2)

    assert limit is not None
    assert 32 <= limit <= 40
    assert trials[0].held is False


def test_nothing_may_hold() -> None:
    limit, trials = find_limit(8, lambda rate: Trial(rate=rate, held=False, why=""))

    assert limit is None
    assert len(trials) < 20


@pytest.mark.parametrize(("text", "seconds"), [("200ms", 0.2), ("1.5s", 1.5), ("2m", 120), ("10us", 1e-5)])
def test_spans_have_units(text: str, seconds: float) -> None:
    assert parse_span(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["200", "-1s", "1 day", "", "infs"])
def test_other_spans_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a span such as 200ms"):
        parse_span(text)


@pytest.mark.parametrize(("text", "rate"), [("500/s", 500), ("30/m", 0.5), ("7", 7)])
def test_rates_are_a_second(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "-5/s", "1e9", "fast", "10/d"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a rate above 0"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (1.234, "1.23 s"),
        (0.0456, "45.6 ms"),
        (0.2, "200 ms"),
        (0.000012, "12.0 µs"),
        (0, "0 ms"),
        (None, "-"),
    ],
)
def test_spans_are_shown_with_three_digits(seconds: float | None, shown: str) -> None:
    assert show_span(seconds) == shown
