"""What a run leaves, however it ends: nothing, within two seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.pytest_taskservice.plugin.conftest import Downstream

CELERY = "--taskservice-backend=celery"

NAPPING = """
    from pathlib import Path
    from shopx.tasks import nap

    def test_nap(taskservice_app):
        nap.delay(60, str(Path(__file__).with_name("napping"))).get(timeout=60)
"""


@contextmanager
def running(downstream: Downstream, *args: str, until: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has made the files ``until``; it is over when the test is."""
    process = downstream.start(*args)
    try:
        for name in until:
            _await_file(downstream.root / name)
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def napping(downstream: Downstream, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose worker sleeps in a task, with its Redis and worker up."""
    downstream.write(test_shopx=NAPPING)
    with running(downstream, CELERY, *args, until=("napping",)) as process:
        # Pytest, helper, worker and its two slots, at least: else the test would prove nothing.
        assert len(downstream.processes()) >= 5
        assert len(downstream.remains()) > len(downstream.processes())
        yield process


def test_nothing_is_left_after_a_normal_end(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.tasks import nap

        def test_nap(taskservice_app):
            nap.delay(60)
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=1)
    assert downstream.remains_in_the_end() == []


@pytest.mark.parametrize("redis", ["embedded", "fake"])
def test_nothing_is_left_two_seconds_after_ctrl_c(downstream: Downstream, redis: str) -> None:
    with napping(downstream, f"--taskservice-redis={redis}") as process:
        os.killpg(process.pid, signal.SIGINT)

        # How long pytest takes to say goodbye depends on the machine; what it leaves must not.
        assert process.wait(20) == pytest.ExitCode.INTERRUPTED
        assert downstream.remains_in_the_end() == []


def test_nothing_is_left_two_seconds_after_kill_9(downstream: Downstream) -> None:
    with napping(downstream) as process:
        process.kill()

        assert downstream.remains_in_the_end() == []


BROKEN = """
    from pathlib import Path

    from pytest_taskservice.drivers.base import Stage, TaskCall
    from pytest_taskservice.scenario.acts import FaultCall
    from pytest_taskservice.scenario.model import Workers
    from shopx.celery import app

    def test_broken(request):
        from pytest_taskservice.fixtures import HARNESS

        driver = request.config.stash[HARNESS].driver("celery")
        driver.set_stage(Stage(workers=Workers(count=2, concurrency=1), faults=frozenset({"pause", "down"})))
        driver.begin(app, {})
        started = Path(__file__).with_name("started")
        driver.launch(TaskCall(task="shopx.tasks.nap", args=(60, str(started))))
        while not started.exists():
            pass
        faults = driver.faults()
        faults.inject(FaultCall(kind="pause", worker="worker1"))
        faults.inject(FaultCall(kind="pause", worker="worker2"))
        faults.inject(FaultCall(kind="pause", target="redis"))
        faults.inject(FaultCall(kind="down"))
        Path(__file__).with_name("broken").touch()
        driver.settle(timeout=60)
"""


@pytest.mark.parametrize("end", ["kill", "interrupt"])
def test_nothing_is_left_of_a_world_that_ends_in_the_middle_of_its_faults(
    downstream: Downstream, end: str
) -> None:
    downstream.write(test_shopx=BROKEN)
    with running(downstream, CELERY, until=("broken",)) as process:
        # Pytest, helper, two Redis servers, two workers and their two slots, at least.
        assert len(downstream.processes()) >= 8
        if end == "kill":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(20) == pytest.ExitCode.INTERRUPTED

        assert downstream.remains_in_the_end() == []


BUSY = """
    import select
    from pathlib import Path
    import pytest
    from shopx.celery import app

    @app.task
    def busy(name):
        Path(__file__).with_name(name).touch()
        # For real, in every world: a sleep takes no time in virtual time.
        for _ in range(600):
            select.select([], [], [], 0.1)

    @pytest.mark.parametrize("n", range(2))
    def test_busy(taskservice_app, n):
        busy.delay(f"busy{n}").get(timeout=600)
"""


@pytest.mark.parametrize("world", ["celery-sim", "celery-eager"])
def test_ctrl_c_in_a_task_of_the_tests_own_process_ends_the_session(
    downstream: Downstream, world: str
) -> None:
    downstream.write(test_shopx=BUSY)
    with running(downstream, f"--taskservice-backend={world}", until=("busy0",)) as process:
        os.killpg(process.pid, signal.SIGINT)

        assert process.wait(20) == pytest.ExitCode.INTERRUPTED
        assert not (downstream.root / "busy1").exists()
        assert downstream.remains_in_the_end() == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere xdist's processes go on for some seconds")
@pytest.mark.parametrize("world", ["celery", "celery-sim", "celery-eager"])
def test_nothing_is_left_of_the_processes_of_an_xdist_that_was_killed(
    downstream: Downstream, world: str
) -> None:
    downstream.write(test_shopx=BUSY)
    args = (f"--taskservice-backend={world}", "-pxdist", "-n2")
    with running(downstream, *args, until=("busy0", "busy1")) as process:
        assert len(downstream.processes()) >= 3
        process.kill()

        assert downstream.remains_in_the_end() == []


def test_nothing_is_left_of_a_hunt_in_several_processes_after_kill_9(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import os
        from pathlib import Path

        PARENT = os.getpid()

        def test_hunt(taskservice_sim):
            def check(sim):
                if os.getpid() != PARENT:
                    Path(__file__).with_name(f"hunting{sim.seed}").touch()
                    os.read(os.pipe()[0], 1)

            taskservice_sim.find(check, seeds=9, processes=2)
        """
    )
    with running(downstream, "--taskservice-backend=celery-sim", until=("hunting1", "hunting2")) as process:
        # Pytest, helper and two children.
        assert len(downstream.processes()) >= 4
        process.kill()

        assert downstream.remains_in_the_end() == []


def _await_file(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come within 20 s"
        time.sleep(0.02)
