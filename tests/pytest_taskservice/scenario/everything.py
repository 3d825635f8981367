"""A file that uses all of the format, to be changed at one place, and where longer ones are."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.load import load_text

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Scenario

DOCUMENTS = Path(__file__).parent / "documents"

GOOD = """\
schema: 1
name: everything
seeds: 3
config: {busy_after: 10s, data_ttl: 1h}
workers: {count: 2, concurrency: 1}
tasks:
  a: {runs_for: 1s, queue: slow}
  b: {fails_with: "ValueError: no", retry: {max_attempts: 2}}
  c: {call: shop.tasks.charge}
  line: {chain: [a, a]}
  all: {chord: [a, c], body: a}
workflows:
  quick: [{run: 1s}]
  approval: [{run: 2s}, {ask: approve, timeout: 1h}, {emit: {percent: 50}, as: progress}]
  refund: {call: shop.flows.refund}
beat:
  nightly: {launch: a, cron: "0 2 * * *", timezone: Europe/Berlin}
  often: {launch: a, every: 5m}
steps:
  - {at: 0s, launch: a, as: run}
  - {launch: line, as: both}
  - {start: approval, as: flow}
  - {start: quick, as: short}
  - {follow: flow, as: ann}
  - {inject: pause, for: 3s, as: nap}
  - {at: 5s, input: flow, as: answer}
expect:
  eventually:
    - {within: 1m, of: run, status: SUCCESS}
finally:
  - {stop: flow}
"""

STEP = "  - {at: 5s, input: flow, as: answer}"
CLAIM = "within: 1m, of: run, status: SUCCESS"


def read(text: str) -> Scenario:
    (scenario,) = load_text(dedent(text), "f.yaml")
    return scenario


def whole(old: str = "", new: str = "") -> Scenario:
    assert old in GOOD
    return read(GOOD.replace(old, new, 1))


def wrong(old: str, new: str) -> str:
    assert old in GOOD
    with pytest.raises(ScenarioError) as caught:
        load_text(GOOD.replace(old, new, 1), "f.yaml")
    return str(caught.value).removeprefix("f.yaml:")
