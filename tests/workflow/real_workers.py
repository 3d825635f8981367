"""One real worker, and what becomes of the runs that it has."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import CeleryBackend, Settings, TaskService, create_app
from taskservice.workflow import WorkflowEngine, WorkflowStatus
from tests.commands import running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Iterator

    from taskservice.workflow import WorkflowRun

__all__ = ["WAIT", "asked", "diary", "ended", "engine_on", "flow_settings", "pid_in", "until", "worker"]

HERE = Path(__file__).parent
WAIT = 20.0


@contextmanager
def flow_settings(**more: Any) -> Iterator[Settings]:
    """Settings of a Redis of our own, for the workflows of `worker_flows`."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    import_module("worker_flows")
    with closing(acquire(RedisRequest())) as server:
        yield Settings(redis_url=server.url, imports=("worker_flows",), **more)


@asynccontextmanager
async def engine_on(settings: Settings) -> AsyncIterator[WorkflowEngine]:
    """The engine of a client."""
    backend = CeleryBackend(create_app(settings), settings=settings)
    async with TaskService(backend) as service, WorkflowEngine(service, settings=settings) as opened:
        yield opened


@contextmanager
def worker(settings: Settings, log: Path, *, queues: str = "celery") -> Iterator[subprocess.Popen[bytes]]:
    """One worker with one slot, in a process group of its own."""
    environment = {
        "TASKSERVICE_REDIS_URL": settings.redis_url,
        "TASKSERVICE_IMPORTS": "worker_flows",
        "TASKSERVICE_WORKFLOW_SWEEP_INTERVAL": "0.05",
    }
    argv = ("worker", "-c", "1", "-Q", queues)
    with running(*argv, log=log, environment=environment, folders=(HERE,), patience=WAIT) as process:
        yield process


async def until(engine: WorkflowEngine, run_id: str, *wanted: WorkflowStatus) -> WorkflowRun:
    with anyio.fail_after(WAIT):
        while (run := await engine.load(run_id)).status not in wanted:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.01)
    return run


async def ended(engine: WorkflowEngine, run_id: str) -> WorkflowRun:
    return await until(engine, run_id, WorkflowStatus.SUCCESS, WorkflowStatus.FAILED)


async def asked(engine: WorkflowEngine, run_id: str) -> str:
    """Return the id of the question, once there is one."""
    run = await until(engine, run_id, WorkflowStatus.INPUT)
    assert run.question is not None
    return run.question.id


async def pid_in(folder: Path, name: str) -> int:
    path = anyio.Path(folder / f"{name}.pid")
    with anyio.fail_after(WAIT):
        while not await path.exists() or not await path.read_text():  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)
    return int(await path.read_text())


def diary(folder: Path) -> list[str]:
    path = folder / "diary"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
