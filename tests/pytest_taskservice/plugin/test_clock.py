"""``taskservice_clock`` and frozen time from outside: who has them, and what is said where nobody can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream


def test_a_world_without_a_clock_skips_who_asks_for_one(downstream: Downstream) -> None:
    downstream.write(test_shopx="def test_it(taskservice_clock): taskservice_clock.advance(hours=1)")

    result = downstream.run("-rs", "--taskservice-backend=celery-eager,anyio")

    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["*celery-eager cannot: virtual time (eager mode has nothing *)"])


def test_the_start_of_time_is_the_users(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from datetime import datetime

        def test_it(taskservice_clock):
            assert datetime.now() == datetime(2030, 5, 6)
        """
    )

    result = downstream.run("--taskservice-backend=anyio", "--taskservice-start=2030-05-06")

    result.assert_outcomes(passed=2)


def test_a_wait_that_never_ends_is_told_with_who_waits(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import anyio
        import pytest
        from taskservice import task

        @task
        async def sleeps_for_ever():
            await anyio.sleep_forever()

        def test_blocking(task_service):
            task_service.launch_task(sleeps_for_ever)[1].result()

        @pytest.mark.anyio
        async def test_async(task_service):
            _, handle = await task_service.launch_task(sleeps_for_ever)
            await handle.result()

        def test_afterwards(task_service): ...
        """
    )

    chosen = "(blocking and trio) or (test_async and asyncio) or afterwards"
    result = downstream.run("-p", "anyio", "--taskservice-backend=anyio", "-k", chosen)

    result.assert_outcomes(failed=2, passed=2)
    text = result.stdout.str()
    assert text.count("the simulation is idle: nothing can ever bring it") >= 2
    assert "in sleeps_for_ever" in text


def test_of_loops_that_are_older_than_the_world_only_asyncios_has_virtual_time(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        from datetime import datetime, timedelta
        import anyio
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="module")
        async def connection(anyio_backend):
            yield 1

        async def test_service(connection, task_service, anyio_backend):
            assert (datetime.now() == datetime(2026, 1, 1)) is (anyio_backend == "asyncio")

        async def test_clock(connection, taskservice_clock):
            begun = datetime.now()
            await anyio.sleep(3600)
            assert datetime.now() - begun == timedelta(hours=1)
        """
    )

    result = downstream.run("-p", "anyio", "--taskservice-backend=anyio")

    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*no virtual time: *for an async fixture of a wider scope:*"])


def test_options_of_anyio_are_kept_and_a_loop_of_the_users_too(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import asyncio
        import pytest
        from pytest_taskservice.errors import HarnessError

        pytestmark = pytest.mark.anyio

        class Mine(asyncio.SelectorEventLoop): ...

        @pytest.fixture(params=["debug", "uvloop", "factory"])
        def anyio_backend(request):
            options = {
                "debug": {"debug": True}, "uvloop": {"use_uvloop": True}, "factory": {"loop_factory": Mine}
            }
            return "asyncio", options[request.param]

        async def test_it(request, taskservice_clock, anyio_backend):
            loop = asyncio.get_running_loop()
            assert loop.get_debug() == ("debug" in anyio_backend[1])
            if "loop_factory" in anyio_backend[1]:
                assert type(loop) is Mine
                with pytest.raises(HarnessError, match="loop_factory"):
                    await taskservice_clock.sleep(hours=1)
            else:
                await taskservice_clock.sleep(hours=1)
        """
    )

    result = downstream.run("-p", "anyio", "--taskservice-backend=anyio")

    result.assert_outcomes(passed=3)


def test_an_unknown_clock_is_a_mistake(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest

        @pytest.mark.taskservice(clock="reel")
        def test_it(task_service): ...
        """
    )

    result = downstream.run("--taskservice-backend=anyio", "-k", "asyncio")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unknown clock 'reel'; did you mean 'real'*"])


def test_a_real_worker_is_never_shown_frozen_time(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from celery import group
        from freezegun import freeze_time
        from shopx.celery import app
        from shopx.tasks import add

        def test_plain(taskservice_app):
            assert add.delay(1, 2).get(timeout=20) == 3

        @freeze_time("2020-01-01")
        def test_delay(taskservice_app):
            add.delay(1, 2)

        @freeze_time("2020-01-01")
        def test_name(taskservice_app):
            app.send_task("shopx.tasks.add", (1, 2))

        @freeze_time("2020-01-01")
        def test_canvas(taskservice_app):
            group(add.s(1, 2), add.s(3, 4)).delay()

        @freeze_time("2020-01-01")
        def test_service(task_service):
            task_service.launch_task(add, 1, 2)

        def test_wait(taskservice_app):
            result = add.delay(1, 2)
            with freeze_time("2020-01-01"):
                result.get(timeout=20)

        @freeze_time("2020-01-01")
        def test_no_task(taskservice_app): ...
        """
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(passed=2, failed=5)
    text = result.stdout.str()
    for action in ("send a task", "launch a task", "wait for a result"):
        assert f"cannot {action} under freeze_time" in text
    assert "taskservice_clock" in text


_MOVED = """
from datetime import UTC, datetime, timedelta
from unittest import TestCase

import pytest
import time_machine
from freezegun import freeze_time
from shopx.celery import app

if WORLD == "celery-sim":
    @app.task
    def year():
        return datetime.now(UTC).year

    def asked():
        return datetime.now(UTC).year, year.delay().get(timeout=5)
else:
    def asked():
        return datetime.now(UTC).year, 2020

pytestmark = pytest.mark.usefixtures("taskservice_backend")

@pytest.fixture(scope="class", params=[freeze_time, time_machine.travel])
def moved(request):
    with request.param("2020-01-01"):
        yield

@pytest.mark.usefixtures("moved")
class TestByAFixture:
    def test_once(self):
        assert asked() == (2020, 2020)

    def test_again(self):
        assert asked() == (2020, 2020)

@freeze_time("2020-01-01")
class TestFrozen(TestCase):
    def test_it(self):
        assert asked() == (2020, 2020)

@time_machine.travel("2020-01-01")
class TestTravelled(TestCase):
    def test_it(self):
        assert asked() == (2020, 2020)

@pytest.mark.freeze_time("2019-01-01")
def test_frozen_by_a_mark(freezer):
    freezer.tick(timedelta(days=365))
    assert asked() == (2020, 2020)

@pytest.mark.time_machine("2019-01-01")
def test_travelled_by_a_mark(time_machine):
    time_machine.shift(timedelta(days=365))
    assert asked() == (2020, 2020)

def test_afterwards():
    assert datetime.now(UTC).year == 2026
"""


@pytest.mark.parametrize("world", ["celery-sim", "anyio"])
def test_time_that_is_moved_before_a_world_opens_is_its_own(downstream: Downstream, world: str) -> None:
    downstream.write(test_shopx=f"WORLD = {world!r}\n{_MOVED}")

    chosen = f"--taskservice-backend={world}"
    result = downstream.run("-p", "pytest_freezer", "-p", "time_machine", chosen, "-k", "not trio")

    result.assert_outcomes(passed=9)


@pytest.mark.parametrize("world", ["celery-sim", "anyio"])
def test_a_wait_that_never_ends_is_told_in_frozen_time_too(downstream: Downstream, world: str) -> None:
    downstream.write(
        test_shopx="""
        import anyio
        import pytest
        from freezegun import freeze_time

        @pytest.mark.anyio
        @freeze_time("2020-01-01")
        async def test_it(taskservice_backend, anyio_backend_name):
            await anyio.sleep_forever()
        """
    )

    result = downstream.run("-p", "anyio", f"--taskservice-backend={world}", "-k", "asyncio")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*SimulationIdleError*nothing can ever bring it"])


def test_a_clock_that_time_machine_moved_is_told_where_a_test_of_a_real_worker_fails(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        import time_machine
        from shopx.tasks import add

        @time_machine.travel("2020-01-01")
        def test_it(taskservice_app):
            assert add.delay(1, 2).get(timeout=20) == 4
        """
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["shopx.tasks.add was sent while the test had moved the clock with time-machine: *celery-sim*"]
    )


def test_eager_tasks_see_what_is_frozen(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import datetime
        from freezegun import freeze_time
        from shopx.celery import app

        @app.task
        def now():
            return datetime.datetime.now().isoformat()

        @freeze_time("2020-01-01")
        def test_it(taskservice_app):
            assert now.delay().get() == "2020-01-01T00:00:00"
        """
    )

    result = downstream.run("--taskservice-backend=celery-eager")

    result.assert_outcomes(passed=1)


def test_time_that_a_class_moves_stays_so_for_each_of_its_tests_with_celerys_own_fixtures(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        from datetime import UTC, datetime

        import pytest
        import time_machine
        from celery import shared_task

        @shared_task
        def year():
            return datetime.now(UTC).year

        @pytest.fixture(scope="class")
        def moved():
            # When the first test's simulation is open, and still there when it is closed.
            with time_machine.travel("2020-01-01"):
                yield

        @pytest.mark.usefixtures("moved")
        class TestMoved:
            def test_once(self, celery_worker):
                assert (datetime.now(UTC).year, year.delay().get(timeout=5)) == (2020, 2020)

            def test_again(self, celery_worker):
                assert (datetime.now(UTC).year, year.delay().get(timeout=5)) == (2020, 2020)

        def test_afterwards(celery_worker):
            assert (datetime.now(UTC).year, year.delay().get(timeout=5)) == (2026, 2026)
        """
    )

    result = downstream.run("-p", "pytest_taskservice.celery_compat", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=3)
