from __future__ import annotations

import pytest

from taskservice.load.histogram import Histogram


def test_percentiles_are_at_most_one_per_cent_too_high() -> None:
    histogram = Histogram()
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds / 1000)

    assert histogram.percentile(50) == pytest.approx(0.500, rel=0.01)
    assert histogram.percentile(95) == pytest.approx(0.950, rel=0.01)
    assert histogram.percentile(99.9) == pytest.approx(0.999, rel=0.01)
    assert (histogram.least, histogram.most, histogram.percentile(100)) == (0.001, 1.0, 1.0)
    assert histogram.mean == pytest.approx(0.5005)


def test_nothing_counted_has_no_percentile() -> None:
    assert Histogram().percentile(95) is None
    assert Histogram().mean is None


def test_two_processes_are_one() -> None:
    left, right, both = Histogram(), Histogram(), Histogram()
    for histogram, value in ((left, 0.1), (right, 0.2), (right, 0.4)):
        histogram.add(value)
        both.add(value)

    left.merge(Histogram.from_json(right.to_json()))

    assert left.to_json() == both.to_json()


def test_a_stall_counts_for_all_that_it_kept_from_being_sent() -> None:
    # A user sends every 100 ms; nine answers come in 10 ms, and one takes a second. Nine more would have been
    # sent meanwhile, and would have waited 0.9 s, 0.8 s ... 0.1 s.
    histogram = Histogram()
    histogram.add(0.010, times=9)
    histogram.add(1.0)

    corrected = histogram.corrected(0.1)

    assert histogram.percentile(90) == pytest.approx(0.010, rel=0.01)
    assert corrected.count == 19
    assert corrected.percentile(90) == pytest.approx(0.9, rel=0.02)
    assert corrected.percentile(50) == pytest.approx(0.1, rel=0.02)


def test_a_correction_without_an_interval_changes_nothing() -> None:
    histogram = Histogram()
    histogram.add(3.0)

    assert histogram.corrected(0.0).to_json() == histogram.to_json()
