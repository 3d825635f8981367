"""Anybody's Celery app: how it is found, pointed at a world, and put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

CELERY = "--taskservice-backend=celery"


def test_an_app_is_changed_for_a_test_only(downstream: Downstream) -> None:
    downstream.write(
        shopx__settings="""
        task_always_eager = True
        task_soft_time_limit = 50
        """,
        conftest="""
        from shopx.celery import app

        app.config_from_object("shopx.settings")
        """,
        test_shopx="""
        import os
        from shopx.celery import app
        from shopx.tasks import add, who

        def test_changed(taskservice_app):
            assert taskservice_app is app
            assert app.conf.broker_url.startswith("redis://")
            assert app.conf.result_backend.startswith("redis://")
            assert app.conf.task_always_eager is False
            assert app.conf.task_soft_time_limit == 50
            assert who.delay().get(timeout=5) != os.getpid()

        def test_restored():
            assert app.conf.broker_url == "amqp://nowhere.invalid"
            assert app.conf.result_backend == "rpc://"
            assert app.conf.task_always_eager is True
            assert type(app.backend).__name__ == "RPCBackend"
            assert app.connection_for_write().as_uri() == "amqp://guest:**@nowhere.invalid:5672//"
            assert add.delay(2, 3).get() == 5

        def test_changed_again(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
        """,
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=3)


def test_a_broker_in_the_environment_does_not_win(
    downstream: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://environment.invalid")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://environment.invalid")
    downstream.write(
        test_shopx="""
        import os
        from shopx.celery import app
        from shopx.tasks import add

        def test_changed(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5

        def test_restored():
            assert os.environ["CELERY_BROKER_URL"] == "amqp://environment.invalid"
            assert os.environ["CELERY_RESULT_BACKEND"] == "redis://environment.invalid"
            assert app.connection_for_write().hostname == "environment.invalid"
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("shopx.nowhere:app", "cannot import 'shopx.nowhere': ModuleNotFoundError: No module named *"),
        ("shopx.broken:app", "cannot import 'shopx.broken': ZeroDivisionError: division by zero"),
        ("shopx.celery:ap", "module 'shopx.celery' has no 'ap'; it has Celery, app"),
        ("shopx.celery:Celery", "not a Celery app but a type: <class 'celery.app.base.Celery'>"),
    ],
    ids=["no-module", "broken-module", "no-attribute", "no-app"],
)
def test_an_app_that_cannot_be_had_is_one_clear_error(
    downstream: Downstream, path: str, message: str
) -> None:
    downstream.write(
        shopx__broken="1 / 0",
        test_shopx="""
        def test_it(taskservice_app): ...
        """,
    )
    downstream.ini(taskservice_app=path)

    result = downstream.run("--taskservice-backend=celery-eager")

    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(f"taskservice: taskservice_app = '{path}': {message}")
    assert downstream.code_shown(result) == []


def test_an_app_is_named_by_a_fixture_of_ours_that_a_conftest_overrides(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        conftest="""
        import pytest
        from shopx.celery import app

        @pytest.fixture(scope="session")
        def taskservice_app():
            return app
        """,
        test_shopx="""
        from shopx.celery import app
        from shopx.tasks import add

        def test_direct(taskservice_app):
            assert taskservice_app is app
            assert add.delay(2, 3).get(timeout=5) == 5

        def test_through_another_fixture(task_service):
            assert task_service.launch_and_await_task(add, 2, 3)[1] == 5
        """,
    )

    result = downstream.run("--taskservice-backend=celery,celery-eager")

    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_who_relies_on_an_eager_app_is_told_where_a_test_fails(downstream: Downstream, world: str) -> None:
    downstream.write(
        conftest="""
        from shopx.celery import app

        app.conf.task_always_eager = True
        """,
        test_shopx="""
        import os
        from shopx.tasks import add

        def test_it_does_not_wait(taskservice_app):
            add.delay(2, 3)
            assert os is None

        def test_it_sends_nothing(taskservice_app):
            assert os is None
        """,
    )

    result = downstream.run(f"--taskservice-backend={world}")

    result.assert_outcomes(failed=2)
    told = [line for line in result.outlines if "in this world it has only been sent" in line]
    assert len(told) == 1


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_who_makes_an_app_eager_in_a_test_is_told_where_it_fails(downstream: Downstream, world: str) -> None:
    downstream.write(
        shopx__settings="task_always_eager = False",
        conftest="""
        from shopx.celery import app

        app.config_from_object("shopx.settings")
        """,
        test_shopx="""
        import os
        from shopx import settings
        from shopx.tasks import add

        def test_it_is_eager(taskservice_app, monkeypatch):
            monkeypatch.setattr(settings, "task_always_eager", True)
            add.delay(2, 3)
            assert os is None

        def test_it_is_not(taskservice_app):
            add.delay(2, 3)
            assert os is None
        """,
    )

    result = downstream.run(f"--taskservice-backend={world}")

    result.assert_outcomes(failed=2)
    told = [line for line in result.outlines if "in this world it has only been sent" in line]
    assert [line.partition(",")[0] for line in told] == [
        "the test sent a task while it set task_always_eager"
    ]


def test_the_current_app_is_taken_as_the_app_that_it_is(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from celery import current_app
        from shopx.celery import app
        from shopx.tasks import add

        @pytest.fixture
        def taskservice_app():
            app.set_current()
            return current_app

        def test_it(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5

        def test_again(taskservice_app):
            assert current_app._get_current_object() is app
        """
    )

    result = downstream.run("--taskservice-backend=celery,celery-sim,celery-eager")

    result.assert_outcomes(passed=6)


def test_the_fixtures_a_celery_project_already_has_are_used(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        conftest="""
        import pytest
        from shopx.celery import app

        @pytest.fixture(scope="session")
        def celery_config():
            return {"broker_url": "amqp://config.invalid", "task_soft_time_limit": 41}

        @pytest.fixture
        def celery_app():
            return app
        """,
        test_shopx="""
        from shopx.celery import app

        @app.task
        def limit():
            return app.conf.task_soft_time_limit

        def test_both(task_service):
            assert app.conf.task_soft_time_limit == 41
            assert limit.delay().get(timeout=5) == 41
        """,
    )

    result = downstream.run("--taskservice-backend=celery,celery-eager")

    result.assert_outcomes(passed=2)


def test_no_app_is_needed_for_tasks_of_the_task_service(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        test_shopx="""
        import os
        from taskservice import task

        @task
        def double(number):
            return number * 2, os.getpid()

        def test_it(task_service, taskservice_backend):
            doubled, pid = task_service.launch_and_await_task(double, 21)[1]
            assert doubled == 42
            assert (pid == os.getpid()) == taskservice_backend.startswith("anyio")
        """
    )

    result = downstream.run("--taskservice-backend=celery,anyio")

    result.assert_outcomes(passed=3)


FACTORY = """
    from celery import Celery, Task, shared_task

    def create_app():
        class ContextTask(Task):
            def __call__(self, *args, **kwargs):
                return "in context", self.run(*args, **kwargs)

        app = Celery("made", task_cls=ContextTask, broker="memory://")
        app.set_default()
        return app

    @shared_task
    def shared():
        return 1
"""


def test_a_task_class_that_only_a_factory_holds_is_named_where_a_test_fails(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        factory=FACTORY,
        test_shopx="""
        import pytest
        from factory import create_app, shared

        @pytest.fixture
        def celery_app():
            return create_app()

        def test_context(taskservice_app):
            assert shared.delay().get(timeout=10) == ["in context", 1]
        """,
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("no module holds this app, *without its task class ContextTask: *")


def test_another_app_that_was_made_current_is_named_where_a_test_fails(downstream: Downstream) -> None:
    downstream.write(
        factory=FACTORY,
        test_shopx="""
        from factory import create_app, shared

        def test_second(taskservice_app):
            create_app()
            assert shared.delay().get(timeout=0.1) == 1
        """,
    )

    result = downstream.run("--taskservice-backend=celery-eager")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        "shared tasks and AsyncResult(id) go to <Celery made*not to the app in this world, <Celery shopx*"
    )


def test_an_address_that_is_the_worlds_is_told_where_a_test_fails_over_it(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from celery import Celery

        import pytest

        @pytest.fixture
        def taskservice_app():
            return Celery("shopx", broker="amqp://rabbit.internal//", backend="redis://redis.internal:6379/3")

        def test_broker(taskservice_app):
            assert taskservice_app.conf.broker_url == "amqp://rabbit.internal//"

        def test_results(taskservice_app):
            assert taskservice_app.conf.result_backend == "redis://redis.internal:6379/3"

        def test_another(taskservice_app):
            assert taskservice_app.conf.task_default_queue == "shop"
        """
    )

    result = downstream.run("--taskservice-backend=celery-eager,celery-sim")

    result.assert_outcomes(passed=2, failed=4)
    assert [line.partition(":")[0] for line in result.outlines if "this world's own" in line] == [
        "broker_url",
        "result_backend",
    ]
