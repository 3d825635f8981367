"""The smallest file that says something, to be changed at one place."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.load import load_text

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Scenario

GOOD = """\
schema: 1
name: paid
tasks:
  charge: {returns: paid}
steps:
  - {launch: charge, as: run}
expect:
  eventually:
    - {within: 5s, of: run, status: SUCCESS}
"""


def one(text: str) -> Scenario:
    (scenario,) = load_text(dedent(text), "f.yaml")
    return scenario


def wrong(data: bytes | str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load_text(data, "f.yaml")
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)
