"""A simulation with a clock, threads beside it, and a simulated Redis; no Celery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import time_machine

from pytest_taskservice.simulator.core.simulation import Simulation
from pytest_taskservice.simulator.redis import SimulatedRedis
from pytest_taskservice.simulator.substitutes import Patches, replaced
from pytest_taskservice.simulator.threads import Threads

START = 1_767_225_600.0

Open = Callable[..., AbstractContextManager[Simulation]]


@contextmanager
def opened(seed: int = 0, **options: Any) -> Iterator[Simulation]:
    patches = Patches()
    with time_machine.travel(START, tick=False) as traveller:
        simulation = Simulation(seed=seed, start=START, on_move=traveller.move_to)
        simulation.outsiders = threads = Threads(simulation)
        redis = SimulatedRedis(simulation, **options)
        with replaced(simulation):
            threads.install(patches)
            redis.install(patches)
            try:
                yield simulation
            finally:
                simulation.close()
                redis.close()
                patches.undo()


@pytest.fixture
def open_simulation() -> Open:
    """Opens a simulation, again and again if need be."""
    return opened


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    """One simulation, open."""
    with opened() as simulation:
        yield simulation
