"""What a test in a simulation is handed, and the hunt for a seed that brings a failure."""

from __future__ import annotations

from pytest_taskservice.hunting.face import CelerySim, find
from pytest_taskservice.hunting.hunt import Finding

__all__ = ["CelerySim", "Finding", "find"]
