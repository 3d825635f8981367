"""An app to break in a simulated world, and when its tasks began."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from celery import Celery

from pytest_taskservice.drivers.app_patch import AppPatch
from pytest_taskservice.history import EventKind
from pytest_taskservice.simulator.celery.world import CeleryWorld

REDIS, AMQP = "redis://localhost/0", "amqp://localhost//"

app = Celery("faults", broker=REDIS, backend="redis://localhost/0", set_as_current=False)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 600},
    # Without it Celery fails a run whose result it cannot store at once.
    result_backend_always_retry=True,
    beat_schedule={"tick": {"task": "faults.early", "schedule": 60.0, "args": (0,)}},
)


@app.task(name="faults.early")
def early(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="faults.late", acks_late=True, reject_on_worker_lost=True)
def late(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="faults.late_only", acks_late=True)
def late_only(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@contextmanager
def opened(
    url: str = REDIS, *, seed: int = 0, workers: int = 1, concurrency: int = 1
) -> Iterator[CeleryWorld]:
    """A world whose broker is ``url``'s."""
    with ExitStack() as stack:
        stack.enter_context(AppPatch(app, {"broker_url": url}).applied())
        world = stack.enter_context(CeleryWorld(seed=seed))
        for _ in range(workers):
            world.start_worker(app, concurrency=concurrency)
        yield world


def starts(world: CeleryWorld) -> list[float]:
    """Whole seconds at which bodies began, since the world was opened."""
    return [
        int(event.at - world.simulation.start)
        for event in world.record.log()
        if event.kind is EventKind.STARTED
    ]
