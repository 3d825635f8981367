"""An app for stories on real workers, and how their tests call its tasks and read what was told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery import Celery

from pytest_taskservice.drivers.base import TaskCall
from pytest_taskservice.drivers.synthetic import SYNTHETIC
from pytest_taskservice.scenario.acts import Mark
from pytest_taskservice.scenario.behaviour import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver
    from pytest_taskservice.history import Event, EventKind

MARK = Mark(path="story", line=1, column=1)
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
BRIEF = {
    **LATE,
    # Swept each second: what has been forgotten for so long is given to somebody else.
    "broker_transport_options": {
        "visibility_timeout": 1,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # Who is killed while it sweeps keeps the others from it for so long.
        "unacked_mutex_expire": 1,
    },
}

app = Celery("stories", broker="amqp://nowhere.invalid", backend="rpc://")


@app.task
def add(left: int, right: int) -> int:
    return left + right


@app.task(lazy=False)
def bound_early() -> None:
    time.sleep(5)


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def leave_trace(path: str) -> None:
    from pathlib import Path

    Path(path).touch()


def slow(seconds: float, label: str = "slow") -> TaskCall:
    return TaskCall(task=SYNTHETIC, args=(Behaviour(runs_for=seconds, returns=label).to_json(),), label=label)


def call(task: str, *args: object) -> TaskCall:
    return TaskCall(task=f"{__name__}.{task}", args=args, label=task)


def kinds(driver: CeleryWorkerDriver, run: str) -> list[str]:
    return [str(event.kind) for event in driver.log().of(run)]


def told(driver: CeleryWorkerDriver, kind: EventKind) -> list[Event]:
    return [event for event in driver.log() if event.kind is kind]


def eventually(condition: Callable[[], object], *, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
