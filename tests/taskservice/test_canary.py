"""A pool that hangs is told from one that lives, on real workers, though the worker beats on."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from taskservice import BlockingTaskService, PoolState, Settings, create_app, read_heartbeats
from taskservice.backends.overview import read_overview
from tests.taskservice.conftest import WorkerProcess, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from taskservice import WorkerHeartbeat

TASKS = """
import time
from pathlib import Path
from taskservice import task

@task(name="hold")
def hold(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return path
"""
OFTEN = {"heartbeat_interval": 0.05, "heartbeat_ttl": 30}


@pytest.fixture
def hold() -> Any:
    from taskservice import TaskRegistry, task

    @task(name="hold", registry=TaskRegistry())
    def hold(path: str) -> str:
        return path

    return hold


def the_beat(settings: Settings) -> WorkerHeartbeat:
    (beat,) = read_heartbeats(settings.redis_url, settings.key_prefix)
    return beat


def is_in(settings: Settings, state: PoolState) -> Callable[[], bool]:
    return lambda: the_beat(settings).pool_state is state


def test_a_stopped_prefork_pool_is_hung_and_lives_again(make_worker: Callable[..., WorkerProcess]) -> None:
    worker = make_worker(TASKS, canary_timeout=0.5, **OFTEN)
    app = create_app(Settings(redis_url=worker.settings.redis_url))
    with worker.running("-P", "prefork", "-c", "2"), ExitStack() as stack:
        until(is_in(worker.settings, PoolState.OK), "answer of the pool")
        (stats,) = (app.control.inspect(timeout=10, limit=1).stats() or {}).values()
        for pid in stats["pool"]["processes"]:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)

        until(is_in(worker.settings, PoolState.HUNG), "report of a pool that hangs")
        found = read_overview(app, worker.settings, seconds=10)
        assert not found.healthy
        assert "hangs: nothing has come back for" in found.health().detail
        assert found.health().workers[0].running == 0

        stack.close()
        until(is_in(worker.settings, PoolState.OK), "report of a pool that lives again")
        assert read_overview(app, worker.settings, seconds=10).healthy


@pytest.mark.parametrize(("pool", "slots"), [("threads", 2), ("solo", 1), ("prefork", 1)])
def test_a_pool_whose_slots_all_hold_runs_is_busy(
    make_worker: Callable[..., WorkerProcess], tmp_path: Path, hold: Any, pool: str, slots: int
) -> None:
    worker = make_worker(TASKS, canary_timeout=600, **OFTEN)
    settings = Settings(backend="celery", redis_url=worker.settings.redis_url)
    gate = tmp_path / "gate"
    with worker.running("-P", pool, "-c", str(slots)), BlockingTaskService.from_settings(settings) as service:
        handles = [service.launch_task(hold, str(gate))[1] for _ in range(slots)]
        until(is_in(settings, PoolState.BUSY), "report of a busy pool")
        (seen,) = service.health().workers
        assert (seen.running, seen.slots) == (slots, slots)
        assert seen.longest is not None

        gate.touch()
        assert [handle.result(timeout=20) for handle in handles] == [str(gate)] * slots
        until(is_in(settings, PoolState.OK), "report of a pool with a free slot")


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_run_longer_than_the_timeout_makes_a_pool_hung(
    make_worker: Callable[..., WorkerProcess], tmp_path: Path, hold: Any, pool: str
) -> None:
    worker = make_worker(TASKS, canary_timeout=0.3, **OFTEN)
    settings = Settings(backend="celery", redis_url=worker.settings.redis_url)
    gate = tmp_path / "gate"
    with worker.running("-P", pool, "-c", "1"), BlockingTaskService.from_settings(settings) as service:
        _, handle = service.launch_task(hold, str(gate))
        until(lambda: the_beat(settings).running, "run")
        until(is_in(settings, PoolState.HUNG), "report of a pool that hangs")

        gate.touch()
        handle.result(timeout=20)
        until(is_in(settings, PoolState.OK), "report of a pool with a free slot")


def test_runs_that_wait_go_before_a_canary_and_it_is_counted_nowhere(
    make_worker: Callable[..., WorkerProcess], tmp_path: Path, hold: Any
) -> None:
    worker = make_worker(TASKS, canary_timeout=600, **OFTEN)
    settings = Settings(backend="celery", redis_url=worker.settings.redis_url)
    app = create_app(settings)
    gates = [tmp_path / "first", tmp_path / "second"]
    with worker.running("-P", "prefork", "-c", "1"), BlockingTaskService.from_settings(settings) as service:
        handles = [service.launch_task(hold, str(gate))[1] for gate in gates]
        until(lambda: the_beat(settings).canary_sent, "canary that waits for a slot")
        sent = the_beat(settings).canary_sent
        assert handles[1].status() == "PENDING"

        # The first run gives its slot back to the one after it, and the canary waits on.
        gates[0].touch()
        handles[0].result(timeout=20)
        until(lambda: [run.id for run in the_beat(settings).running] == [handles[1].id], "second run")
        gates[1].touch()
        handles[1].result(timeout=20)
        until(lambda: the_beat(settings).answered > sent, "answer")
        (stats,) = (app.control.inspect(timeout=10, limit=1).stats() or {}).values()
        assert stats["total"] == {"hold": 2}
