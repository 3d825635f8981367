"""One real worker, and what becomes of the runs that it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from taskservice.workflow import WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskservice import Settings
    from taskservice.workflow import WorkflowEngine, WorkflowRun

__all__ = ["HERE", "WAIT", "asked", "diary", "ended", "pid_in", "until", "worker"]

HERE = Path(__file__).parent
WAIT = 20.0


@contextmanager
def worker(settings: Settings, log: Path, *, queues: str = "celery") -> Iterator[subprocess.Popen[bytes]]:
    """One worker with one slot, in a process group of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        "TASKSERVICE_REDIS_URL": settings.redis_url,
        "TASKSERVICE_IMPORTS": "worker_flows",
        "TASKSERVICE_WORKFLOW_SWEEP_INTERVAL": "0.05",
    }
    program = [sys.executable, "-c", "from taskservice.cli import main; main()"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*program, "worker", "-c", "1", "-Q", queues],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
        process.terminate()
        process.wait(timeout=WAIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=WAIT)


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
