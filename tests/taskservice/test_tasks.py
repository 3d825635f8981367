from __future__ import annotations

import inspect
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskservice.errors import ConfigurationError, TaskNotRegisteredError
from taskservice.tasks import RetryPolicy, TaskRegistry, next_delay, task


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (4, 8), (98, 8)])
def test_delay_doubles_up_to_the_cap(attempt: int, seconds: int) -> None:
    policy = RetryPolicy(max_attempts=99, cap=timedelta(seconds=8))

    assert next_delay(policy, attempt) == timedelta(seconds=seconds)


def test_the_last_attempt_is_not_followed_by_another() -> None:
    assert next_delay(RetryPolicy(max_attempts=3), 3) is None
    assert next_delay(RetryPolicy(max_attempts=1), 1) is None


def test_jitter_takes_its_share_off() -> None:
    policy = RetryPolicy(base=timedelta(seconds=10), jitter=0.5)

    assert next_delay(policy, 1, random=0.0) == timedelta(seconds=10)
    assert next_delay(policy, 1, random=0.5) == timedelta(seconds=7.5)


POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.just(10**6),
    base=st.timedeltas(timedelta(milliseconds=1), timedelta(hours=1)),
    cap=st.timedeltas(timedelta(hours=1), timedelta(days=365)),
    factor=st.floats(1, 1e6),
    jitter=st.floats(0, 1),
)


@given(policy=POLICIES, attempt=st.integers(1, 10**6 - 1), random=st.floats(0, 1))
def test_a_delay_is_never_negative_nor_above_the_cap(
    policy: RetryPolicy, attempt: int, random: float
) -> None:
    delay = next_delay(policy, attempt, random=random)

    assert delay is not None
    assert timedelta(0) <= delay <= policy.cap


@given(policy=POLICIES, attempt=st.integers(1, 10**6 - 2))
def test_a_delay_never_shrinks_without_chance(policy: RetryPolicy, attempt: int) -> None:
    sooner, later = next_delay(policy, attempt), next_delay(policy, attempt + 1)

    assert sooner is not None
    assert later is not None
    assert sooner <= later


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"base": timedelta(0)},
        {"base": timedelta(hours=1)},
        {"factor": 0.5},
        {"factor": float("inf")},
        {"jitter": 1.5},
    ],
)
def test_an_invalid_policy_cannot_be_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="need"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_a_task_is_still_its_function() -> None:
    @task(registry=TaskRegistry())
    def double(value: int) -> int:
        return 2 * value

    assert double(4) == 8
    assert str(inspect.signature(double)) == "(value: 'int') -> 'int'"
    assert not double.is_async


async def plain() -> None: ...


def test_a_name_defaults_to_module_and_qualname() -> None:
    definition = task(registry=TaskRegistry())(plain)

    assert definition.name == f"{__name__}.plain"
    assert definition.is_async


def test_a_name_belongs_to_one_function() -> None:
    registry = TaskRegistry()
    task(name="mail", registry=registry)(plain)
    task(name="mail", registry=registry)(plain)

    with pytest.raises(ConfigurationError, match="give one of them another name"):
        task(name="mail", registry=registry)(test_a_task_is_still_its_function)

    assert registry.names() == ("mail",)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    registry = TaskRegistry()
    task(name="send_mail", registry=registry)(plain)

    with pytest.raises(TaskNotRegisteredError, match="did you mean 'send_mail'"):
        registry.get("send_mial")
