"""An application's own Celery app, with tasks of ours in its modules, run by ``taskservice worker``."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from taskservice import CeleryBackend, TaskRegistry, task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.taskservice.conftest import RedisProcess

pytestmark = pytest.mark.anyio

WAIT = 20.0
APP = """
from celery import Celery

app = Celery("theirs", broker={url!r}, backend={url!r}, include=["theirs_jobs"], set_as_current=False)
"""
JOBS = """
from taskservice import task

@task(name="theirs.double")
def double(number: int) -> int:
    return 2 * number
"""


@task(name="theirs.double", registry=TaskRegistry())
def double(number: int) -> int:
    """As the client has it; the worker's is its own."""
    return number


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def their_app(redis_process: RedisProcess, tmp_path: Path) -> Iterator[Celery]:
    (tmp_path / "theirs_app.py").write_text(APP.format(url=redis_process.url), encoding="utf-8")
    (tmp_path / "theirs_jobs.py").write_text(JOBS, encoding="utf-8")
    argv = [
        sys.executable,
        "-c",
        "from taskservice.cli import main; main()",
        "worker",
        "-A",
        "theirs_app:app",
    ]
    worker = subprocess.Popen(
        [*argv, "-P", "solo"],
        cwd=tmp_path,
        env={
            **os.environ,
            "TASKSERVICE_REDIS_URL": redis_process.url,
            "TASKSERVICE_SHUTDOWN_GRACE": "5",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield Celery("theirs", broker=redis_process.url, backend=redis_process.url, set_as_current=False)
    worker.terminate()
    worker.wait(timeout=WAIT)


async def test_its_worker_knows_our_tasks_in_its_modules(their_app: Celery) -> None:
    async with CeleryBackend(their_app) as backend:
        handle = await backend.launch_task(double, [21])

        assert await handle.result(WAIT) == 42
