"""Suites that know nothing of the worlds: how they get into one without an edit, and what they are told."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

ALL_IN = "-o usefixtures=taskservice_app"
FUNCTION = """
    from shopx.tasks import add

    def test_sum():
        assert add.delay(1, 2).get(timeout=10) == 3
"""
CASES = """
    import unittest
    from shopx.tasks import add

    class TestSums(unittest.TestCase):
        def setUp(self):
            self.first = add.delay(1, 2)

        def test_now(self):
            self.assertEqual(self.first.get(timeout=10), 3)

        def test_later(self):
            result = add.apply_async((self.first.get(timeout=10), 4), countdown=0.1)
            self.assertEqual(result.get(timeout=10), 7)
"""
# There is no broker to be reached, and none is looked for twice.
IN_A_HURRY = """
    from shopx.celery import app

    app.conf.task_publish_retry = False
"""
STORY = """
    schema: 1
    name: adding up
    tasks:
      add: {call: shopx.tasks.add}
    steps:
      - {at: 0s, launch: add, args: [1, 2], as: sum}
    expect:
      eventually:
        - {within: 5s, of: sum, status: SUCCESS, result: 3}
"""


@pytest.fixture(params=["-o", "ini"])
def all_in(request: pytest.FixtureRequest, downstream: Downstream) -> list[str]:
    """What puts all tests of a suite into the world."""
    if request.param == "-o":
        return ALL_IN.split()
    downstream.ini(taskservice_app="shopx.celery:app", usefixtures="taskservice_app")
    return []


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_a_whole_suite_runs_in_a_world_without_an_edit(
    downstream: Downstream, all_in: list[str], world: str
) -> None:
    downstream.write(test_shopx=FUNCTION, test_cases=CASES)

    result = downstream.run(*all_in, f"--taskservice-backend={world}")

    result.assert_outcomes(passed=3)
    assert not [line for line in result.outlines if "asks for a world" in line or "TestCases" in line]


def test_the_command_that_replays_a_test_puts_it_into_its_world(downstream: Downstream) -> None:
    downstream.write(test_cases=CASES.replace("10), 3)", "10), 4)"))

    result = downstream.run(*ALL_IN.split(), "--taskservice-backend=celery-sim")
    replay = next(
        line.split() for line in result.outlines if line.startswith("replay:") and "test_now" in line
    )
    again = downstream.run(*(word.strip("'") for word in replay[2:]))

    result.assert_outcomes(failed=1, passed=1)
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["* taskservice simulation *"])


def test_a_test_case_skips_what_its_world_cannot_show(downstream: Downstream) -> None:
    downstream.write(test_cases=CASES)

    result = downstream.run(*ALL_IN.split(), "--taskservice-backend=celery-eager", "-rs")

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*test_cases.py:*celery-eager cannot: eta *"])


@pytest.mark.parametrize("way", ["ini", "autouse"])
def test_stories_go_on_where_every_test_is_in_a_world(downstream: Downstream, way: str) -> None:
    downstream.root.joinpath("sums.scenario.yaml").write_text(dedent(STORY), "utf-8")
    if way == "autouse":
        downstream.write(
            conftest="""
            import pytest

            @pytest.fixture(autouse=True)
            def first(taskservice_app, taskservice_backend):
                assert taskservice_app.main == "shopx"
            """
        )

    options = ALL_IN.split() if way == "ini" else []
    result = downstream.run(*options, "--taskservice-backend=all")

    # In the anyio world it is played on asyncio and on trio.
    result.assert_outcomes(passed=5)


def test_a_suite_that_asks_for_no_world_is_told_before_it_fails_and_there(downstream: Downstream) -> None:
    downstream.write(
        conftest=IN_A_HURRY, test_shopx=FUNCTION + "\n    def test_other():\n        assert add(1, 2) == 4\n"
    )

    result = downstream.run("--taskservice-backend=celery-sim")

    result.assert_outcomes(failed=2)
    told = [line for line in result.outlines if "puts all in" in line]
    assert len(told) == 2
    assert told[0].startswith("taskservice: none of these tests asks for a world, so none is in one: ")
    assert told[1].startswith(
        "this test is in no world, so its tasks went where the app's own settings say: "
    )


def test_with_xdist_the_same_is_told_once_at_the_end(downstream: Downstream) -> None:
    downstream.write(test_shopx="def test_it(): ...\n\ndef test_other(): ...\n")

    result = downstream.run("--taskservice-backend=celery-sim", "-p", "xdist", "-n2")

    result.assert_outcomes(passed=2)
    told = [line for line in result.outlines if "puts all in" in line]
    assert len(told) == 1
    assert told[0].startswith("taskservice: none of these tests asks for a world, so none is in one: ")


@pytest.mark.parametrize("chosen", [True, False])
def test_of_a_world_in_the_ini_file_only_failures_are_told(downstream: Downstream, chosen: bool) -> None:
    downstream.write(conftest=IN_A_HURRY, test_shopx=FUNCTION)
    downstream.ini(**({"taskservice_backend": "celery-sim"} if chosen else {}))

    result = downstream.run()

    result.assert_outcomes(failed=1)
    assert len([line for line in result.outlines if "puts all in" in line]) == chosen


def test_of_celerys_own_fixtures_it_is_said_who_serves_them(downstream: Downstream) -> None:
    downstream.write(
        conftest='pytest_plugins = ["celery.contrib.pytest"]',
        test_shopx="def test_it(celery_config): ...",
    )

    result = downstream.run("--taskservice-backend=celery-sim")
    served = downstream.run("--taskservice-backend=celery-sim", "-p", "pytest_taskservice.celery_compat")

    result.stdout.fnmatch_lines(["taskservice: 1 of these tests have Celery's own fixtures, * -p pytest_*"])
    assert not [line for line in served.outlines if "Celery's own fixtures" in line]


STARTED = """
    from celery.contrib.testing.worker import start_worker
    from shopx.celery import app
    from shopx.tasks import add

    def test_it():
        with start_worker(app, perform_ping_check=False):
            assert add.delay(1, 2).get(timeout=10) == 3
"""
STARTED_BY_CLASS = """
    import unittest
    from celery.contrib.testing.worker import start_worker
    from shopx.celery import app
    from shopx.tasks import add

    class TestSums(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            cls.enterClassContext(start_worker(app, perform_ping_check=False))

        def test_now(self):
            self.assertEqual(add.delay(1, 2).get(timeout=10), 3)

        def test_later(self):
            self.assertEqual(add.apply_async((1, 2), countdown=0.1).get(timeout=10), 3)
"""
COMPAT = "-p pytest_taskservice.celery_compat"


@pytest.mark.parametrize("options", [COMPAT, f"{ALL_IN} {COMPAT}"], ids=["compat", "both"])
@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_celerys_start_worker_is_served(downstream: Downstream, world: str, options: str) -> None:
    downstream.write(test_shopx=STARTED, test_classes=STARTED_BY_CLASS)

    result = downstream.run(*options.split(), f"--taskservice-backend={world}")

    result.assert_outcomes(passed=3)


def test_celerys_start_worker_is_served_in_every_test_of_a_world(downstream: Downstream) -> None:
    downstream.write(test_shopx=STARTED)

    result = downstream.run(*ALL_IN.split(), "--taskservice-backend=celery,celery-sim")

    result.assert_outcomes(passed=2)


def test_a_worker_started_before_a_world_is_told_who_serves_it(downstream: Downstream) -> None:
    downstream.write(conftest=IN_A_HURRY, test_shopx=STARTED_BY_CLASS)

    result = downstream.run(*ALL_IN.split(), "--taskservice-backend=celery-sim")

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["Celery's start_worker was asked for outside of a world, *celery_compat *"])


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_a_worker_of_a_fixture_that_comes_first_is_told_of(downstream: Downstream, world: str) -> None:
    downstream.ini()
    downstream.write(
        test_shopx="""
        import pytest
        from celery import Celery
        from celery.contrib.testing.worker import start_worker


        @pytest.fixture
        def celery_app():
            app = Celery("new", broker="memory://", backend="cache+memory://")
            with start_worker(app, perform_ping_check=False):
                yield app


        def test_it(celery_app):
            assert False
        """
    )

    result = downstream.run(*ALL_IN.split(), f"--taskservice-backend={world}")

    result.stdout.fnmatch_lines(["Celery's start_worker has begun a worker in a thread*celery_compat *"])


OWN_APP = """
    import pytest
    from shopx.celery import app

    @pytest.fixture
    def taskservice_app():
        return app
"""


@pytest.mark.parametrize("world", ["celery", "celery-sim", "celery-eager"])
def test_all_are_in_with_an_app_that_a_fixture_names(downstream: Downstream, world: str) -> None:
    downstream.ini()
    downstream.write(conftest=OWN_APP, test_function=FUNCTION, test_cases=CASES.replace("countdown=0.1", ""))

    result = downstream.run(*ALL_IN.split(), f"--taskservice-backend={world}")

    result.assert_outcomes(passed=3)
    assert "asks for a world" not in result.stdout.str()


@pytest.mark.parametrize("autouse", [False, True])
def test_a_fixture_puts_tests_in_with_an_app_that_a_fixture_names(
    downstream: Downstream, autouse: bool
) -> None:
    downstream.ini()
    downstream.write(
        conftest=OWN_APP
        + f"""
    @pytest.fixture(autouse={autouse})
    def client(taskservice_app):
        return taskservice_app
""",
        test_client=f"""
        from shopx.tasks import add

        class TestSums:
            def test_sum(self{"" if autouse else ", client"}):
                assert add.delay(1, 2).get(timeout=10) == 3

        def test_sum({"" if autouse else "client"}):
            assert add.delay(1, 2).get(timeout=10) == 3
        """,
    )

    downstream.run("--taskservice-backend=celery-sim,celery-eager").assert_outcomes(passed=4)


def test_a_mark_puts_a_class_in_with_an_app_that_a_fixture_names(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        conftest=OWN_APP,
        test_marked="""
        import pytest
        from shopx.tasks import add

        @pytest.mark.usefixtures("taskservice_app")
        class TestSums:
            def test_sum(self):
                assert add.delay(1, 2).get(timeout=10) == 3

        @pytest.mark.usefixtures("taskservice_app")
        def test_sum():
            assert add.delay(1, 2).get(timeout=10) == 3
        """,
    )

    downstream.run("--taskservice-backend=celery-sim,celery-eager").assert_outcomes(passed=4)


def test_start_worker_of_another_app_is_in_the_same_simulation(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from celery import Celery
        from celery.contrib.testing.worker import start_worker
        from shopx.tasks import add

        def test_it():
            app = Celery("other", broker="redis://127.0.0.1:1", backend="redis://127.0.0.1:1")

            @app.task(name="other.double")
            def double(number):
                return 2 * number

            with start_worker(app, perform_ping_check=False):
                assert double.delay(2).get(timeout=10) == 4
            assert app.conf.broker_url == "redis://127.0.0.1:1"

        def test_of_its_own():
            assert add.delay(1, 2).get(timeout=10) == 3
        """
    )

    downstream.run(*ALL_IN.split(), "--taskservice-backend=celery-sim").assert_outcomes(passed=2)


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_all_may_be_in_where_some_have_celerys_own_fixtures(downstream: Downstream, world: str) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from shopx.celery import app
        from shopx.tasks import add

        @pytest.fixture(scope="session")
        def celery_session_app():
            return app

        def test_before():
            assert add.delay(1, 2).get(timeout=10) == 3

        def test_with_a_worker(celery_session_worker):
            assert add.delay(1, 2).get(timeout=10) == 3

        def test_after():
            assert add.delay(1, 2).get(timeout=10) == 3

        def test_with_an_app(celery_app):
            assert celery_app.main == "celery.tests"
        """
    )

    options = (*ALL_IN.split(), "-p", "pytest_taskservice.celery_compat")
    downstream.run(*options, f"--taskservice-backend={world}").assert_outcomes(passed=4)


def test_a_test_that_celery_compat_serves_is_not_told_that_it_is_outside(downstream: Downstream) -> None:
    downstream.write(test_shopx=STARTED.replace("add.delay(1, 2)", "add.apply_async((1, 2), countdown=60)"))

    options = ("-p", "pytest_taskservice.celery_compat", "--taskservice-backend=celery-sim")
    result = downstream.run(*options)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*TimeoutError*"])
    result.stdout.no_fnmatch_line("*this test is in no world*")


@pytest.mark.parametrize("world", ["celery", "celery-sim", "celery-eager"])
def test_a_failure_for_want_of_the_apps_name_says_what_to_name(downstream: Downstream, world: str) -> None:
    downstream.ini()
    downstream.write(
        shopx__celery="""
        from celery import Celery

        app = Celery("shopx", broker="memory://", backend="cache+memory://", include=["shopx.tasks"])
        """,
        test_unnamed="""
        from shopx.tasks import add

        def test_unnamed(taskservice_app):
            assert add.delay(1, 2).get(timeout=1) == 3
        """,
        test_needless="""
        from shopx.tasks import add
        from taskservice import task

        @task
        def own():
            return 1

        def test_needless(task_service):
            assert task_service.launch_and_await_task(own)[1] == 2
        """,
    )

    result = downstream.run(f"--taskservice-backend={world}", "test_unnamed.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no app was named, *, and <Celery shopx *=shopx.celery:app, or *"])
    result = downstream.run(f"--taskservice-backend={world}", "test_needless.py")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*no app was named*")
