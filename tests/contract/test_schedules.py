"""What `TaskService.run_beat` does, whoever runs the tasks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import to_thread

from taskservice import ScheduleError, TaskService

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from taskservice import TaskBackend

SECONDS = 20
pytestmark = pytest.mark.anyio


def wait_for_runs(diary: Path, wanted: int) -> None:
    deadline = time.monotonic() + SECONDS
    while not diary.exists() or len(diary.read_text(encoding="utf-8")) < wanted:
        assert time.monotonic() < deadline, f"{diary} has fewer than {wanted} runs"
        time.sleep(0.005)


async def test_a_task_is_launched_by_its_name_again_and_again(
    unopened: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    entry = {
        "task": tasks.flaky.name,
        "schedule": 0.05,
        "args": [str(diary)],
        "kwargs": {"failures": 0},
        "options": {"expires": 60, "priority": 3},
    }

    async with TaskService(unopened) as service, anyio.create_task_group() as group:
        group.start_soon(service.run_beat, {"often": entry})
        await to_thread.run_sync(wait_for_runs, diary, 3)
        group.cancel_scope.cancel()


async def test_nothing_is_launched_if_one_entry_is_wrong(
    unopened: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    good = {"task": tasks.flaky.name, "schedule": 0.001, "args": [str(diary), 0]}

    async with TaskService(unopened) as service:
        with pytest.raises(ScheduleError, match="did you mean"):
            await service.run_beat({"good": good, "bad": {**good, "task": tasks.flaky.name + "y"}})

    assert not diary.exists()
