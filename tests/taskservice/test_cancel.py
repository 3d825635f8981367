"""Cancelling what runs on a worker that knows nothing of the task service."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import pytest
from celery import Celery

from taskservice import CeleryBackend, RunCancelledError, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskservice import TaskHandle
    from tests.taskservice.conftest import RedisProcess

pytestmark = pytest.mark.anyio

WAIT = 20.0
MODULE = """
import time
from celery import Celery

app = Celery("plain", broker={url!r}, backend={url!r}, set_as_current=False)
app.conf.task_track_started = True

@app.task(name="nap")
def nap():
    time.sleep(20)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def plain_app(redis_process: RedisProcess, tmp_path: Path) -> Iterator[Celery]:
    """An app of somebody's own, with a worker that ``celery worker`` started."""
    (tmp_path / "plain.py").write_text(MODULE.format(url=redis_process.url), encoding="utf-8")
    argv = [sys.executable, "-m", "celery", "-A", "plain", "worker", "-c", "1", "-l", "ERROR"]
    worker = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    app = Celery("plain", broker=redis_process.url, backend=redis_process.url, set_as_current=False)

    @app.task(name="nap")
    def nap() -> None: ...

    yield app
    worker.terminate()
    worker.wait(timeout=WAIT)


async def started(handle: TaskHandle) -> None:
    with anyio.fail_after(WAIT):
        while await handle.status() is not TaskState.STARTED:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.01)


async def test_its_running_process_can_be_ended_and_nothing_else(
    plain_app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="taskservice")
    async with CeleryBackend(plain_app) as backend:
        handle = await backend.launch_task(plain_app.tasks["nap"])
        await started(handle)

        assert not await handle.cancel()

        assert "not started by taskservice" in caplog.text
        assert await handle.cancel(terminate=True)
        with pytest.raises(RunCancelledError):
            await handle.result(WAIT)
