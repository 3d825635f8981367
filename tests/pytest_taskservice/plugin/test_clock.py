"""``taskservice_clock`` and frozen time from outside: who has them, and what is said where nobody can."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
