"""Somebody's own Celery tasks that come to a bad end; the worker of `test_dead_letters_worker` runs them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Task
from celery.concurrency.asynpool import AsynPool

from taskservice import create_app

app = create_app()
# A pool looks for jobs of dead processes every five seconds, which is long for a test.
pool_class: Any = AsynPool
pool_class.timers = property(lambda pool: {pool.maintain_pool: 0.1})
app.conf.worker_lost_wait = 0.1


def die(diary: str) -> None:
    with Path(diary).open("a", encoding="utf-8") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, reject_on_worker_lost=True)
def deadly(diary: str, note: str = "") -> str:
    """Kill the pool's process while the file ``diary`` is shorter than any patience."""
    die(diary)
    return note


@app.task(acks_late=True, reject_on_worker_lost=True, track_started=False)
def deadly_untracked(diary: str) -> None:
    die(diary)


@app.task(acks_late=True, reject_on_worker_lost=True)
def deadly_once(diary: str) -> str:
    if not Path(diary).exists():
        die(diary)
    return "survived"


def wait_beside(started: str) -> str:
    """Wait until the file beside ``started`` is there."""
    Path(started).touch()
    deadline = time.monotonic() + 20
    while not Path(started + ".gate").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(started)
        time.sleep(0.01)
    return "done"


@app.task(acks_late=True, reject_on_worker_lost=True)
def linger(started: str) -> str:
    return wait_beside(started)


@app.task(acks_late=True, reject_on_worker_lost=True, track_started=False)
def linger_untracked(started: str) -> str:
    return wait_beside(started)


@app.task(acks_late=False)
def deadly_early(diary: str) -> None:
    die(diary)


@app.task(time_limit=1)
def stuck(name: str) -> None:
    signal.pause()


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def persistent(self: Task[..., Any], error: str) -> None:
    raise self.retry(exc=ValueError(error) if error else None)


@app.task(bind=True, max_retries=5, default_retry_delay=0)
def changeable(self: Task[..., Any]) -> None:
    if self.request.retries:
        raise KeyError("something else")
    raise self.retry(exc=ValueError("again"))


@app.task(bind=True)
def halve_or_die(self: Task[..., Any], number: int, diary: str) -> float:
    if number == 2:
        die(diary)
    return number / 2


@app.task
def note(path: str) -> None:
    Path(path).touch()


@app.task
def note_error(_: object, error: object, __: object, path: str) -> None:
    Path(path).write_text(type(error).__name__, encoding="utf-8")
