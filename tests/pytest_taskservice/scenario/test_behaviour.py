from __future__ import annotations

import json

import pytest

from pytest_taskservice.scenario.behaviour import EXCEPTIONS, Behaviour, Retry, SyntheticError


@pytest.mark.parametrize("returns", [None, 0, False, "", [], {"a": [1, None]}, 1.5])
def test_a_behaviour_survives_json(returns: object) -> None:
    behaviour = Behaviour(
        runs_for=0.1,
        returns=returns,
        fails_with="ValueError: boom",
        fails_times=2,
        ignores_soft_limit=True,
        retry=Retry(max_attempts=3, delay=0.5, factor=2.0, max_delay=9.0),
    )

    back = Behaviour.from_json(json.loads(json.dumps(behaviour.to_json())))

    assert back == behaviour
    assert type(back.returns) is type(returns)


def test_an_ordinary_behaviour_says_nothing() -> None:
    assert Behaviour().to_json() == {}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("ValueError: boom", ValueError, "boom"),
        ("ValueError", ValueError, ""),
        ("card declined", SyntheticError, "card declined"),
        ("card declined: code 5", SyntheticError, "card declined: code 5"),
        ("OSError: a: b", OSError, "a: b"),
    ],
)
def test_a_failure_is_the_named_exception(text: str, error: type[Exception], message: str) -> None:
    failure = Behaviour(fails_with=text).failure(1)

    assert type(failure) is error
    assert str(failure) == message


def test_only_the_first_so_many_attempts_fail() -> None:
    behaviour = Behaviour(fails_times=2)

    assert [str(behaviour.failure(attempt)) for attempt in (1, 2, 3)] == [
        "attempt 1 failed",
        "attempt 2 failed",
        "None",
    ]


def test_an_exception_that_ends_a_worker_cannot_be_named() -> None:
    assert not {"SystemExit", "KeyboardInterrupt", "StopIteration", "UnicodeDecodeError"} & set(EXCEPTIONS)


def test_delays_grow_by_their_factor_up_to_the_cap() -> None:
    retry = Retry(max_attempts=5, delay=1.0, factor=3.0, max_delay=5.0)

    assert [retry.delay_after(attempt) for attempt in range(1, 6)] == [1.0, 3.0, 5.0, 5.0, None]


def test_a_thousand_attempts_do_not_overflow() -> None:
    retry = Retry(max_attempts=1000, delay=1.0, factor=1000.0)

    assert retry.delay_after(999) == 3600.0


@pytest.mark.parametrize(
    "wrong",
    [{"max_attempts": 0}, {"max_attempts": 2, "factor": 0.5}, {"max_attempts": 2, "delay": -1}],
)
def test_an_impossible_retry_cannot_be_built(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need"):
        Retry(**wrong)  # type: ignore[arg-type]
