"""What tests do with apps that a session says a word on: their own eager mode, results kept nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

ANOTHER_APP = """
    import pytest
    from celery import Celery
    from shopx.tasks import add

    @pytest.fixture
    def bills():
        app = Celery("bills", task_always_eager=True, set_as_current=False)

        @app.task(shared=False)
        def write(number):
            return number

        return write

    @pytest.mark.parametrize("number", [1, 2])
    def test_bills(taskservice_app, bills, number):
        assert bills.delay(number).get() == number

    def test_its_own(taskservice_app):
        assert add.delay(1, 2).get(timeout=10) == 3
        assert add.apply((1, 2)).get() == 3
"""
TOLD = (
    "taskservice: in 2 tests, first test_bills.py::test_bills[[]{world}-1[]], tasks of the app 'bills' ran "
    "by its own task_always_eager, so in no world: a fixture taskservice_app *"
)


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_an_app_that_is_eager_beside_the_world_is_told(downstream: Downstream, world: str) -> None:
    downstream.write(test_bills=ANOTHER_APP)

    result = downstream.run("--taskservice-app=shopx.celery:app", f"--taskservice-backend={world}")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([TOLD.format(world=world)])


def test_an_app_that_is_eager_beside_the_world_is_told_by_xdist_too(downstream: Downstream) -> None:
    downstream.write(test_bills=ANOTHER_APP)

    result = downstream.run(
        "--taskservice-app=shopx.celery:app", "-p", "xdist", "-n2", "--taskservice-backend=celery-sim"
    )

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([TOLD.format(world="celery-sim").replace("-1[]]", "-?[]]")])


def test_a_test_that_fails_is_told_which_app_was_eager(downstream: Downstream) -> None:
    downstream.write(test_bills=ANOTHER_APP.replace("get() == number", "get() == 2"))

    result = downstream.run("--taskservice-app=shopx.celery:app", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["tasks of the app 'bills' ran by its own task_always_eager, so in no world:*"]
    )


def test_in_eager_mode_every_app_may_be_eager(downstream: Downstream) -> None:
    downstream.write(test_bills=ANOTHER_APP)

    result = downstream.run("--taskservice-app=shopx.celery:app", "--taskservice-backend=celery-eager")

    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*in no world*")


BARE = """
    from celery import Celery, shared_task

    app = Celery("bare")

    @app.task
    def double(number):
        return 2 * number

    @app.task
    def gather(numbers):
        return sum(numbers)
"""
READS = """
    import pytest
    from celery import chord, group
    from bare import double, gather

    def test_sends(taskservice_app):
        double.delay(1)

    @pytest.mark.parametrize("read", [
        lambda: double.delay(1).get(timeout=10),
        lambda: double.delay(1).state,
        lambda: group(double.s(1), double.s(2))().get(timeout=10),
        lambda: chord([double.s(1)], gather.s()).delay(),
    ], ids=["get", "state", "group", "chord"])
    def test_reads(taskservice_app, read):
        read()
"""
GIVEN = (
    "taskservice: in 4 tests, first test_bare.py::test_reads[[]{world}-get[]], results of the app 'bare' "
    "were read, whose settings name no result backend: the world gave it one, without which *"
)


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_results_of_an_app_without_a_result_backend_are_told(downstream: Downstream, world: str) -> None:
    downstream.write(bare=BARE, test_bare=READS)

    result = downstream.run("--taskservice-app=bare:app", f"--taskservice-backend={world}")

    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines([GIVEN.format(world=world)])


def test_a_test_that_fails_is_told_that_its_app_has_no_result_backend(downstream: Downstream) -> None:
    downstream.write(bare=BARE, test_bare=READS.replace("        read()", "        assert read() is read"))

    result = downstream.run("--taskservice-app=bare:app", "--taskservice-backend=celery-sim", "-kget")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["results of the app 'bare' were read, whose settings name no result backend: *"]
    )


@pytest.mark.parametrize("named", ["setting", "environment", "celery_config"])
def test_an_app_with_a_result_backend_is_told_nothing(
    downstream: Downstream, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    settings, config = "", ""
    if named == "setting":
        settings = "    app.conf.result_backend = 'rpc://'"
    elif named == "environment":
        monkeypatch.setenv("CELERY_RESULT_BACKEND", "rpc://")
    else:
        config = """
    @pytest.fixture(scope="session")
    def celery_config():
        return {"result_backend": "rpc://"}
"""
    downstream.write(bare=BARE + settings, test_bare=READS + config)

    result = downstream.run("--taskservice-app=bare:app", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=5)
    result.stdout.no_fnmatch_line("*no result backend*")
