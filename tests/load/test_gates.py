from __future__ import annotations

import pytest

from taskservice.errors import ConfigurationError
from taskservice.load.gates import parse_gate


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("p95>200ms", "p95", 0.2),
        ("end_to_end.p99.9 >= 1.5s", "p99.9", 1.5),
        ("p999>1s", "p99.9", 1.0),
        ("queue_wait.p99>2m", "queue_wait.p99", 120.0),
        ("enqueue.p999<500us", "enqueue.p99.9", 0.0005),
        ("lost>0", "lost", 0.0),
        ("failure_rate>1%", "failure_rate", 0.01),
        ("throughput<600/m", "throughput", 10.0),
    ],
)
def test_a_gate_is_a_metric_and_a_bound_in_its_unit(text: str, metric: str, bound: float) -> None:
    gate = parse_gate(text)

    assert gate.metric == metric
    assert gate.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("p96>200ms", "did you mean p9"),
        ("lots>0", "did you mean lost"),
        ("que_wait.p95>1s", "did you mean queue_wait.p95"),
        ("colour>1", "known: min, mean, p50"),
        ("p95>200", "found the unit none in the gate 'p95>200'; allowed: us, ms, s, m, h"),
        ("lost>1ms", "found the unit ms"),
        ("failure_rate>0.1", "allowed: %"),
        ("p95", "cannot read the gate 'p95'"),
        ("p95=200ms", "cannot read the gate"),
        ("", "cannot read the gate"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice.replace("(", r"\(")):
        parse_gate(text)


@pytest.mark.parametrize(("found", "passed"), [(0.1, True), (0.2, True), (0.3, False), (None, False)])
def test_a_gate_fails_if_it_is_true_or_has_no_data(found: float | None, passed: bool) -> None:
    verdict = parse_gate("p95>200ms").as_failure({"p95": found})

    assert verdict.passed is passed


@pytest.mark.parametrize(("found", "passed"), [(0.1, True), (0.3, False), (None, False)])
def test_a_goal_must_be_true_and_have_data(found: float | None, passed: bool) -> None:
    assert parse_gate("p95<200ms").as_goal({"p95": found}).passed is passed


def test_a_verdict_shows_what_was_found() -> None:
    figures = {"p95": 0.25, "failure_rate": 0.015, "throughput": 1234.0, "lost": None}

    found = [
        parse_gate(text).as_failure(figures).found
        for text in ("p95>1s", "failure_rate>1%", "throughput<1", "lost>0")
    ]

    assert found == ["250 ms", "1.50%", "1,234/s", "no data"]
