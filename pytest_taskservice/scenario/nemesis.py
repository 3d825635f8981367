"""The nemesis: the faults of a story that its seed draws, each with its instant, before the story begins.

One seed draws the same faults in every world; what they strike is the world's to say.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.acts import FaultCall
    from pytest_taskservice.scenario.model import Nemesis

__all__ = ["draws"]

# What a file leaves open, in seconds.
_LASTS = (0.5, 10.0)
_BY = (0.05, 1.0)
_MOMENTARY = frozenset({"kill", "term", "restart", "lose_child", "reset_peer", "duplicate", "drop_ack"})
_MEASURED = frozenset({"latency", "delay", "slow"})


def draws(nemesis: Nemesis, *, seed: int) -> Iterator[tuple[float, FaultCall]]:
    """Yield instants since the start with their faults, in order."""
    chance = Random(f"nemesis-{seed}")  # noqa: S311 - a story's chance, not a secret
    at, count = 0.0, 0
    while nemesis.limit is None or count < nemesis.limit:
        # However often it is asked for, time goes on.
        at += max(round(chance.uniform(*nemesis.every), 3), 0.001)
        if at >= nemesis.until:
            return
        yield at, _drawn(chance.choice(nemesis.kinds), chance, left=nemesis.until - at)
        count += 1


def _drawn(fault: FaultCall, chance: Random, *, left: float) -> FaultCall:
    """Return ``fault`` with what the file left open."""
    if fault.kind not in _MOMENTARY and fault.lasts is None:
        fault = replace(fault, lasts=round(min(chance.uniform(*_LASTS), left), 3))
    if fault.kind in _MEASURED and not fault.by:
        fault = replace(fault, by=round(chance.uniform(*_BY), 3))
    return fault
