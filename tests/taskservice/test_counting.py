"""A worker whose processes are killed just as they look at what they share with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskservice import CeleryBackend, Settings, TimeLimitError, create_app
from tests.taskservice import slow_counts, worker_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.taskservice.conftest import RedisProcess
    from tests.taskservice.worker_groups import StartWorker

pytestmark = pytest.mark.anyio

WAIT = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_process_killed_while_it_looks_leaves_its_worker_at_work(
    redis_process: RedisProcess, start_worker: StartWorker, tmp_path: Path
) -> None:
    modules = f"{worker_tasks.__name__},{slow_counts.__name__}"
    start_worker(redis_process.url, slots=1, imports=modules)
    async with CeleryBackend(create_app(Settings(redis_url=redis_process.url))) as backend:
        killed = await backend.launch_task(slow_counts.end_as_it_is_killed)
        with pytest.raises(TimeLimitError):
            await killed.result(WAIT)

        after = await backend.launch_task(worker_tasks.write_down, [str(tmp_path / "diary"), 1])
        assert await after.result(WAIT) == 1
