from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as celery_json

from taskservice.errors import PayloadError, PayloadSizeError
from taskservice.payloads import wire_arguments, wire_value

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)


@given(value=VALUES)
def test_a_value_comes_out_as_celery_would_carry_it(value: Any) -> None:
    carried = celery_json.loads(celery_json.dumps(value))

    assert wire_value(value, "value") == carried


class Size(IntEnum):
    LARGE = 3


class Colour(StrEnum):
    RED = "red"


class Plain(Enum):
    ONE = 1


class Reducible:
    def __json__(self) -> dict[str, int]:
        return {"size": 3}


@pytest.mark.parametrize(
    ("value", "wire"),
    [(Size.LARGE, 3), (Colour.RED, "red"), (Reducible(), {"size": 3}), ((1, (2,)), [1, [2]])],
)
def test_a_value_becomes_what_it_is_at_heart(value: object, wire: object) -> None:
    found = wire_value(value, "value")

    assert found == wire
    assert type(found) is type(wire)
    assert json.dumps(found) == json.dumps(wire)


@pytest.mark.parametrize(
    "value",
    [b"\xff", datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 2), time(3), Decimal("1.5"), UUID(int=7)],
)
def test_the_types_that_celery_carries_besides_are_left_alone(value: object) -> None:
    assert wire_value([value], "value") == [value]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "result is object, which is not JSON"),
        ({"lines": [1, {2}]}, r"result\['lines'\]\[1\] is set"),
        (Plain.ONE, r"result is .*test_payloads\.Plain"),
        ({(1, 2): 3}, "result is a dict with keys of type tuple"),
        (Reducible, "result is type"),
        (lambda: None, "result is function"),
    ],
)
def test_what_is_not_json_is_named(value: object, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        wire_value(value, "result")


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)

    with pytest.raises(PayloadError, match="contains itself"):
        wire_value(value, "result")


def test_arguments_are_named_or_numbered() -> None:
    with pytest.raises(PayloadError, match="argument 'user' is object"):
        wire_arguments([object()], {}, ["user"])
    with pytest.raises(PayloadError, match="argument 1 is object"):
        wire_arguments([1, object()], {}, ["user"])
    with pytest.raises(PayloadError, match="argument 'size' is object"):
        wire_arguments([], {"size": object()})


@pytest.mark.parametrize(
    "value",
    [
        "x" * 101,
        ["x" * 60, "x" * 60],
        {"k": b"x" * 101},
        [0] * 51,
        dict.fromkeys(range(21), 0),
        [[["x" * 101]]],
    ],
)
def test_what_is_surely_too_long_is_refused(value: object) -> None:
    with pytest.raises(PayloadSizeError, match="result takes this payload over 100 bytes: store it"):
        wire_value(value, "result", limit=100)


@pytest.mark.parametrize("value", ["x" * 100, ["x" * 40, "x" * 40], [0] * 50, 10**200])
def test_what_fits_is_taken(value: object) -> None:
    assert wire_value(value, "result", limit=100) == value


def test_arguments_are_counted_together() -> None:
    with pytest.raises(PayloadSizeError, match="argument 'second' takes"):
        wire_arguments(["x" * 60], {"second": "x" * 60}, limit=100)
