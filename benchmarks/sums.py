"""A small Celery app that adds numbers; simulators and workers import it from here."""

from __future__ import annotations

from typing import Final

from celery import Celery

__all__ = ["EVERY", "add", "app", "total"]

EVERY: Final = 300.0
"""Seconds between two runs of its schedule."""

app = Celery("benchmarks.sums", broker="redis://localhost", backend="redis://localhost", set_as_current=False)
app.conf.beat_schedule = {"tick": {"task": "benchmarks.sums.add", "schedule": EVERY, "args": (1, 1)}}


@app.task(name="benchmarks.sums.add")
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


@app.task(name="benchmarks.sums.total")
def total(numbers: list[int]) -> int:
    """Add many."""
    return sum(numbers)
