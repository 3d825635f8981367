"""Metrics of a real worker, scraped; of in-process runs, by a listener; and the folder they are kept in."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from taskservice import (
    AnyIOBackend,
    BlockingTaskService,
    RetryPolicy,
    Settings,
    TaskRegistry,
    TaskService,
    create_app,
    task,
)
from taskservice.telemetry import metrics_listener
from tests.taskservice.conftest import WorkerProcess, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASKS = """
import os, signal
from datetime import timedelta
from taskservice import RetryPolicy, task

SOON = RetryPolicy(max_attempts=3, base=timedelta(milliseconds=1))

@task(name="add")
def add(left: int, right: int) -> int:
    return left + right

@task(name="slow")
def slow() -> None: ...

@task(name="fail")
def fail() -> None:
    raise ValueError("no")

@task(name="fail_often", retry=SOON)
def fail_often() -> None:
    raise ValueError("no")

@task(name="die", acks_late=False)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
"""
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

KILLED = """
import os, signal
from taskservice.telemetry.multiprocess import collected
with collected():
    os.kill(os.getpid(), signal.SIGKILL)
"""
ALIVE = """
import sys
from taskservice.telemetry.multiprocess import collected
with collected() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def scrape(port: int) -> Samples:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except URLError:
        return {}
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_worker_shows_what_its_children_count(
    make_worker: Callable[..., WorkerProcess], closed_port: int, tmp_path: Path
) -> None:
    worker = make_worker(TASKS, heartbeat_interval=0.05, heartbeat_ttl=30)
    settings = Settings(backend="celery", redis_url=worker.settings.redis_url)
    names: TaskRegistry = TaskRegistry()
    known: dict[str, Any] = {
        name: task(name=name, registry=names)(lambda *_: None)
        for name in ("add", "fail", "fail_often", "die")
    }
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    wanted = {
        ("taskservice_runs_total", (("state", "SUCCESS"), ("task", "add"))): 5.0,
        ("taskservice_runs_total", (("state", "FAILURE"), ("task", "fail"))): 1.0,
        ("taskservice_runs_total", (("state", "FAILURE"), ("task", "fail_often"))): 1.0,
        ("taskservice_runs_total", (("state", "FAILURE"), ("task", "die"))): 1.0,
        ("taskservice_retries_total", (("task", "fail_often"),)): 2.0,
        ("taskservice_run_seconds_count", (("task", "fail_often"),)): 3.0,
        ("taskservice_queue_seconds_count", (("task", "slow"),)): 1.0,
        ("taskservice_queue_seconds_bucket", (("le", "3600.0"), ("task", "slow"))): 0.0,
        ("taskservice_worker_slots", (("worker", "w@here"),)): 2.0,
        ("taskservice_worker_running", (("worker", "w@here"),)): 0.0,
        ("taskservice_worker_pool_state", (("state", "ok"), ("worker", "w@here"))): 1.0,
        ("taskservice_worker_pool_state", (("state", "hung"), ("worker", "w@here"))): 0.0,
        ("taskservice_queue_depth", (("queue", "celery"),)): 0.0,
        ("taskservice_queue_oldest_age_seconds", (("queue", "celery"),)): 0.0,
    }
    argv = ("-P", "prefork", "-c", "2", "--metrics-port", str(closed_port))
    with (
        worker.running(*argv, TMPDIR=str(temporary)) as process,
        BlockingTaskService.from_settings(settings) as service,
    ):
        hour_ago = int(time.time()) - 3600
        create_app(settings).send_task("slow", timestamp=hour_ago)
        handles = service.launch_many(known["add"], [(number, 1) for number in range(3)])
        handles += service.launch_many(known["add"], [(number, 1) for number in range(2)], per_message=2)
        handles += [service.launch_task(known[name])[1] for name in ("fail", "fail_often", "die")]
        for handle in handles:
            until(handle.ready, "end of a run")

        until(lambda: named(scrape(closed_port), wanted) == wanted, f"{wanted} in {scrape(closed_port)}")

        # The child that came after the one that died goes on with its files.
        files = {path.stem for path in temporary.glob("taskservice-metrics-*/counter_*")}
        assert files - {f"counter_{process.pid}"} <= {"counter_slot0", "counter_slot1"}

    assert list(temporary.glob("taskservice-metrics-*")) == []


def named(found: Samples, wanted: Samples) -> Samples:
    # The worker's own name has the host's in it.
    here = {
        (name, tuple((key, "w@here" if key == "worker" else value) for key, value in labels)): value
        for (name, labels), value in found.items()
    }
    return {key: here[key] for key in wanted if key in here}


def test_a_port_that_is_taken_is_told(silent_port: int) -> None:
    argv = ["worker", "--metrics-port", str(silent_port)]

    done = subprocess.run(
        [sys.executable, "-c", "from taskservice.cli import main; main()", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr.startswith(f"taskservice: metrics cannot be shown at 127.0.0.1:{silent_port}: ")


def test_what_a_killed_worker_left_is_removed_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (left,) = (path for path in tmp_path.iterdir() if path.is_dir())

    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", ALIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    assert first.stdout is not None
    assert second.stdout is not None
    in_use = {first.stdout.readline().strip(), second.stdout.readline().strip()}

    assert not left.exists()
    assert {str(path) for path in tmp_path.iterdir() if path.is_dir()} == in_use
    for process in (first, second):
        process.communicate()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_runs_in_process_are_counted_by_a_listener(anyio_backend: str) -> None:
    @task(name=f"in_process_{anyio_backend}", retry=RetryPolicy(max_attempts=2), registry=TaskRegistry())
    async def fails() -> None:
        raise ValueError("no")

    async with TaskService(AnyIOBackend(listener=metrics_listener())) as service:
        _, handle = await service.launch_task(fails)
        assert isinstance(await wait_for(handle), ValueError)

    labels = {"task": f"in_process_{anyio_backend}"}
    assert REGISTRY.get_sample_value("taskservice_runs_total", {**labels, "state": "FAILURE"}) == 1
    assert REGISTRY.get_sample_value("taskservice_retries_total", labels) == 1
    assert REGISTRY.get_sample_value("taskservice_run_seconds_count", labels) == 2


async def wait_for(handle: Any) -> BaseException | None:
    try:
        await handle.result(20)
    except ValueError as error:
        return error
    return None


def test_without_the_extra_the_command_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "sys.argv = ['taskservice', 'worker', '--metrics-port', '0']\n"
        "from taskservice.cli import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 2
    assert done.stderr.startswith("taskservice: metrics need an extra: pip install 'taskservice[telemetry]'")
