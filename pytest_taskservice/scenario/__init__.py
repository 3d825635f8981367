"""Scenario files: read them, ask what they need, play them."""

from __future__ import annotations

from pytest_taskservice.scenario.engine import REAL_TIME, Clock, Verdict, run
from pytest_taskservice.scenario.expectations import Mismatch, check
from pytest_taskservice.scenario.load import BACKENDS, load
from pytest_taskservice.scenario.model import Scenario, Skip
from pytest_taskservice.scenario.needs import needs
from pytest_taskservice.scenario.story import story_length

__all__ = [
    "BACKENDS",
    "REAL_TIME",
    "Clock",
    "Mismatch",
    "Scenario",
    "Skip",
    "Verdict",
    "check",
    "load",
    "needs",
    "run",
    "story_length",
]
