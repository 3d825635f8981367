"""From where to where the numbers of a scenario file may go, both ends allowed."""

from __future__ import annotations

__all__ = [
    "ATTEMPTED",
    "ATTEMPTS",
    "BYTES",
    "COUNTED",
    "DRAWN",
    "FACTOR",
    "LAUNCHES",
    "MEMBERS",
    "PARTS",
    "PRIORITY",
    "REPEATED",
    "SEED",
    "SEEDS",
    "SLOTS",
    "STEPS",
    "STRIKES",
    "WORKERS",
]

LAUNCHES = (1, 10_000)
"""Of one step."""
PRIORITY = (0, 255)
ATTEMPTS = (1, 1000)
ATTEMPTED = (0, 100_000)
"""Of all runs of one story; a simulator plays them in a minute or two."""
FACTOR = (1, 1000)
MEMBERS = (1, 200)
"""Tasks of a canvas, and steps of a workflow."""
PARTS = (1, 1000)
"""Tasks, workflows, beat entries and expectations of one document, each."""
STEPS = (1, 2000)
WORKERS = (1, 20)
SLOTS = (1, 100)
SEEDS = (1, 100_000)
SEED = (0, 2**32 - 1)
BYTES = (1, 1_000_000_000)
STRIKES = (1, 1_000_000)
DRAWN = (1, 10_000)
"""Faults that a seed draws."""
REPEATED = (0, 1000)
COUNTED = (0, 1_000_000)
