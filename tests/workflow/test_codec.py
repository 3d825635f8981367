"""What a store keeps comes out as it went in."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskservice.errors import PayloadError
from taskservice.workflow.store.codec import pack, unpack

KEYS = st.sampled_from(["__type__", "__value__", "a"]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["uuid", "dict", "bytes"])
    | st.decimals(allow_nan=False)
    | st.binary(max_size=9)
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(value=VALUES)
def test_any_value_comes_out_as_it_went_in_on_one_line(value: object) -> None:
    packed = pack(value, "value")

    assert unpack(packed) == value
    assert "\n" not in packed


@pytest.mark.parametrize(
    "forged",
    [
        {"__type__": "uuid", "__value__": {"hex": "0" * 32}},
        {"__type__": "no such type", "__value__": 1},
        [{"a": {"__type__": ["list"], "__value__": None}}, Decimal("1.5"), datetime(2026, 1, 2, tzinfo=UTC)],
    ],
)
def test_a_dict_that_looks_like_a_type_stays_a_dict(forged: object) -> None:
    assert unpack(pack(forged, "value")) == forged


def test_what_is_carried_stays_what_it_is() -> None:
    assert type(unpack(pack([UUID(int=3)], "value"))[0]) is UUID


def test_what_is_no_json_is_named_with_its_place() -> None:
    with pytest.raises(PayloadError, match=r"event 'progress'\['a'\]\[1\] is object"):
        pack({"a": [1, object()]}, "event 'progress'")
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(PayloadError, match="contains itself"):
        pack(circle, "value")
