"""What importing costs, seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

import taskservice

HEAVY = ("celery", "kombu", "redis", "pydantic", "rich", "trio")

IN_PROCESS = """
import sys, anyio
from taskservice import TaskService, AnyIOBackend, task

@task
async def add(left, right):
    return left + right

async def main():
    async with TaskService(AnyIOBackend()) as service:
        assert (await service.launch_and_await_task(add, 1, right=2))[1] == 3

anyio.run(main)
"""

SELECTED = """
import anyio
from taskservice import Settings, TaskService, BlockingTaskService, task

@task
def add(left, right):
    return left + right

with BlockingTaskService.from_settings(Settings(backend="anyio")) as service:
    assert service.launch_and_await_task(add, 1, 2)[1] == 3
"""


def loaded_after(code: str) -> set[str]:
    report = f"\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import taskservice, taskservice.worker.app, taskservice.cli") == set()


@pytest.mark.parametrize("code", [IN_PROCESS, SELECTED])
def test_running_in_process_loads_no_celery_and_no_redis(code: str) -> None:
    assert loaded_after(code) & {"celery", "kombu", "redis"} == set()


def test_the_runtime_never_loads_pytest_or_the_harness() -> None:
    names = "\n".join(f"taskservice.{name}" for name in taskservice.__all__)

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                f"import sys, taskservice\n{names}\n"
                "print('pytest' in sys.modules, 'pytest_taskservice' in sys.modules)"
            ),
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "False False\n"


def test_every_public_name_is_there() -> None:
    assert sorted(taskservice.__all__) == sorted(set(taskservice.__all__))
    assert set(taskservice.__all__) <= set(dir(taskservice))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = taskservice.nothing
