"""Somebody else's suite that uses Celery's own fixtures, in the ``celery`` world."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_taskservice.redis import RedisServer
    from tests.pytest_taskservice.plugin.conftest import Downstream

COMPAT = "pytest_taskservice.celery_compat"

CONFTEST = """
import pytest

from pytest_taskservice.celery_compat import celery_app, celery_session_worker


@pytest.fixture(scope="session")
def celery_config():
    return {
        "broker_url": "pyamqp://",
        "result_backend": "redis://:secret@shop.invalid:6390/3",
        "task_queues": [__import__("kombu").Queue("celery"), __import__("kombu").Queue("mails")],
        "accept_content": {"json"},
    }


@pytest.fixture(scope="session")
def celery_includes():
    return ["shopx.handlers", "shopx.shared"]


@pytest.fixture(scope="session")
def celery_worker_pool():
    return "threads"


@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"concurrency": 3, "queues": ("celery", "mails"), "task_events": True}


@pytest.fixture(scope="session")
def celery_class_tasks():
    from shopx.shared import Counted

    return [Counted]
"""

HANDLERS = """
from celery.signals import task_prerun

SEEN = []


@task_prerun.connect
def saw(sender=None, **_):
    SEEN.append(sender.name)
"""

SHARED = """
import logging
import os

import redis
from celery import Task, shared_task

from shopx import handlers


class Counted(Task):
    name = "counted"

    def run(self, number):
        return number + 1


@shared_task
def pid():
    return os.getpid()


@shared_task
def seen():
    return handlers.SEEN


@shared_task
def keep(key, value):
    redis.Redis(host="shop.invalid", port=6390, db=3, password="secret").set(key, value)


@shared_task
def complain(about):
    logging.getLogger("shopx").error("%s is late", about)
"""

SESSION = """
import asyncio
import os

import pytest
import redis
import redis.asyncio
from celery.contrib.testing.manager import Manager
from celery.signals import task_received
from celery.worker import state

from shopx.shared import complain, keep, pid, seen

ADDRESS = {"host": "shop.invalid", "port": 6390, "db": 3, "password": "secret"}


@pytest.fixture(autouse=True)
def serving(celery_session_app, celery_session_worker):
    celery_session_app.set_current()


def test_the_worker_is_another_process(celery_session_worker):
    assert pid.delay().get(timeout=15) == celery_session_worker.pid != os.getpid()


def test_it_has_the_same_name_as_an_embedded_one(celery_session_app, celery_session_worker):
    answer = celery_session_app.control.inspect(timeout=10, limit=1).ping()
    assert list(answer) == [celery_session_worker.hostname]
    assert celery_session_worker.app is celery_session_app


def test_it_has_the_pool_and_the_parameters_that_it_is_given(celery_session_app, celery_session_worker):
    stats = celery_session_app.control.inspect(timeout=10, limit=1).stats()[celery_session_worker.hostname]
    conf = celery_session_app.control.inspect(timeout=10, limit=1).conf()[celery_session_worker.hostname]

    assert stats["pool"]["max-concurrency"] == 3
    assert conf["worker_send_task_events"] is True


def test_it_serves_class_based_tasks(celery_session_app):
    assert celery_session_app.tasks["counted"].delay(2).get(timeout=15) == 3


def test_an_app_of_one_test_closes_nothing_of_the_sessions(celery_session_app, celery_app):
    celery_app.send_task("counted", (1,)).get(timeout=15)


def test_so_the_sessions_app_goes_on(celery_session_app):
    assert celery_session_app.tasks["counted"].delay(2).get(timeout=15) == 3


def test_a_worker_that_dies(celery_session_worker):
    os.kill(celery_session_worker.pid, 9)
    while celery_session_worker.alive:
        pass


def test_is_replaced_for_the_next_test(celery_session_worker):
    assert pid.delay().get(timeout=15) == celery_session_worker.pid


def test_it_imports_modules_that_hold_only_signal_handlers():
    assert "shopx.shared.seen" in seen.delay().get(timeout=15)


def test_it_consumes_the_queues_of_the_settings():
    assert pid.apply_async(queue="mails").get(timeout=15)


def test_redis_clients_at_the_address_in_the_settings_meet_in_one_redis(celery_session_app):
    keep.delay("answer", 42).get(timeout=15)
    client = redis.Redis(**ADDRESS)

    async def read():
        async with redis.asyncio.Redis(**ADDRESS) as other:
            return await other.get("answer")

    assert client.get("answer") == asyncio.run(read()) == b"42"
    assert any(key.startswith(b"celery-task-meta-") for key in client.keys())


def test_what_it_logs_is_captured_here(celery_session_app, caplog):
    complain.delay("the mail").get(timeout=15)

    # The record was sent before the result, but it is another thread that hears of it.
    Manager(celery_session_app).wait_for(lambda: caplog.records[0], catch=(IndexError,), interval_start=0.01)
    assert caplog.record_tuples[0] == ("shopx", 40, "the mail is late")


def test_its_state_is_seen_and_changed_from_here(celery_session_app):
    run = pid.delay()
    run.get(timeout=15)
    state.revoked.add("gone")

    def succeeded():
        assert run.id in state.successful_requests

    Manager(celery_session_app).wait_for(succeeded, catch=(AssertionError,), interval_start=0.01)
    answer = celery_session_app.control.inspect(timeout=10, limit=1).revoked()
    assert "gone" in next(iter(answer.values()))


def test_receivers_of_its_signal_are_called_before_the_task_runs():
    seen = []

    @task_received.connect
    def received(request=None, **_):
        seen.append((request.id, request.task_name, request.args, request.task.name))

    run = complain.delay("signal")
    run.get(timeout=15)

    assert seen == [(run.id, complain.name, ["signal"], complain.name)]


def test_the_manager_waits_until_it_is_idle(celery_session_app):
    Manager(celery_session_app).wait_until_idle()


def test_what_only_an_embedded_worker_has_is_explained(celery_session_worker):
    assert not hasattr(celery_session_worker, "pool")
    with pytest.raises(AttributeError, match="has no 'consumer' here: it is process"):
        celery_session_worker.consumer
"""

SINGLE = """
import os

import pytest
from celery import Celery, shared_task
from celery.contrib.testing.manager import Manager
from celery.contrib.testing.worker import start_worker


def test_a_task_of_the_test_itself(celery_app, celery_worker):
    factor = 3

    @celery_app.task
    def mul(x, y):
        assert x == 4
        return x * y * factor, os.getpid()

    celery_worker.reload()

    assert mul.delay(4, 4).get(timeout=15) == [48, celery_worker.pid]


def test_a_task_defined_since_needs_no_reload(celery_app, celery_worker):
    @celery_app.task(bind=True, max_retries=5)
    def flaky(self):
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return self.request.retries, helper.name

    @celery_app.task
    def helper():
        return flaky.name

    assert flaky.delay().get(timeout=15) == [2, helper.name]


def test_an_app_alone_is_served_by_nobody(celery_app):
    assert celery_app.control.inspect(timeout=0.2).ping() is None


@pytest.mark.celery(result_backend="file:///nowhere", task_default_queue="other")
def test_the_marker_changes_settings(celery_app):
    assert celery_app.conf.task_default_queue == "other"
    assert celery_app.conf.result_backend == "file:///nowhere"


def test_any_app_is_served_by_start_worker(celery_app):
    app = Celery("own", broker="amqp://nowhere.invalid", backend="rpc://")

    @app.task
    def one():
        return 1

    with start_worker(app, perform_ping_check=False):
        assert one.delay().get(timeout=15) == 1
    assert app.conf.broker_url == "amqp://nowhere.invalid"


def waiting(app):
    with app.connection_for_read() as connection:
        return connection.default_channel.queue_declare("celery").message_count


def test_what_has_not_started_goes_back_to_its_queue(celery_app):
    @celery_app.task
    def late():
        pass

    with start_worker(celery_app, perform_ping_check=False):
        run = late.apply_async(countdown=3600)

        def scheduled():
            assert run.id in str(celery_app.control.inspect(timeout=10, limit=1).scheduled())

        Manager(celery_app).wait_for(scheduled, catch=(AssertionError,), interval_start=0.01)

    assert waiting(celery_app) == 1


def test_what_the_test_before_has_left_is_gone(celery_app):
    assert waiting(celery_app) == 0


def test_the_current_app(depends_on_current_app, celery_app):
    from celery import current_app

    assert current_app._get_current_object() is celery_app
"""

TROUBLE = """
import threading
import time

import pytest
from celery.contrib.testing.worker import start_worker


@pytest.fixture
def celery_worker_parameters():
    return {"shutdown_timeout": 0.1}


def test_unportable(celery_app, celery_worker):
    lock = threading.Lock()

    @celery_app.task
    def locked():
        return lock

    celery_worker.reload()
    assert False


def test_endless(celery_app, celery_worker, tmp_path):
    started = tmp_path / "started"

    @celery_app.task
    def endless(path):
        import pathlib

        pathlib.Path(path).touch()
        time.sleep(600)

    endless.delay(str(started))
    while not started.exists():
        time.sleep(0.01)


def test_two_workers(celery_app, celery_worker, task_service):
    pass
"""

MIXED = """
import os

import pytest

pytest_plugins = ("celery.contrib.pytest",)

from pytest_taskservice.celery_compat import celery_session_worker, celery_worker
"""

MIXED_TESTS = """
import os

from celery import shared_task


@shared_task
def pid():
    return os.getpid()


def test_the_app_is_celerys_and_the_worker_ours(celery_app, celery_worker):
    assert pid.delay().get(timeout=15) == celery_worker.pid != os.getpid()
"""

UNEDITED = """
import pytest

{line}


@pytest.fixture(scope="session")
def celery_config():
    return {"broker_url": "pyamqp://nowhere.invalid", "result_backend": "redis://nowhere.invalid"}


@pytest.fixture
def app(celery_app):
    return celery_app
"""

UNEDITED_TESTS = """
def test_an_app_without_a_worker_reaches_the_broker(app):
    app.send_task("nobody.knows", retry=False)

    with app.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("celery", passive=True).message_count == 1


def test_its_result_backend_is_there(app):
    app.backend.store_result("one", 1, "SUCCESS")

    assert app.AsyncResult("one").get(timeout=5) == 1
"""


@pytest.fixture
def suite(downstream: Downstream) -> Downstream:
    downstream.ini()
    downstream.write(conftest=CONFTEST, shopx__handlers=HANDLERS, shopx__shared=SHARED)
    return downstream


def test_a_suite_with_a_session_worker_runs_unchanged(suite: Downstream) -> None:
    suite.write(test_session=SESSION)

    result = suite.run("--taskservice-backend=celery")

    result.assert_outcomes(passed=16)
    result.stdout.fnmatch_lines(
        ["taskservice: Celery's fixtures in the world celery: 1 worker process · Redis: *"]
    )


@pytest.mark.internals
def test_a_suite_with_workers_of_single_tests_runs_unchanged(suite: Downstream) -> None:
    suite.write(test_single=SINGLE)

    suite.run().assert_outcomes(passed=8)


@pytest.mark.parametrize(
    "line",
    [
        "from celery.contrib.pytest import celery_app, celery_session_app",
        'pytest_plugins = ("celery.contrib.pytest",)',
        "import celery.contrib.pytest",
    ],
)
@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_a_suite_that_names_celerys_own_module_needs_no_change(
    downstream: Downstream, line: str, world: str
) -> None:
    downstream.ini()
    downstream.write(conftest=UNEDITED.replace("{line}", line), test_unedited=UNEDITED_TESTS)

    result = downstream.run("-p", COMPAT, f"--taskservice-backend={world}")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"taskservice: Celery's fixtures in the world {world}: *"])


def test_a_test_module_may_import_celerys_fixtures(downstream: Downstream) -> None:
    downstream.ini()
    first = "from celery.contrib.pytest import celery_app  # noqa: F401"
    downstream.write(conftest=UNEDITED.replace("{line}", ""), test_unedited=first + UNEDITED_TESTS)

    downstream.run("-p", COMPAT, "--taskservice-backend=celery").assert_outcomes(passed=2)


def test_trouble_is_explained(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(test_trouble=TROUBLE)

    result = downstream.run("-p", COMPAT)

    result.assert_outcomes(passed=1, failed=1, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "task 'test_trouble.locked' is not known to the worker*variable 'lock' of *locked*",
            "*RuntimeError: the worker failed to end its tasks within the allocated timeout*",
            "*taskservice: this test asks for a worker of its own and for the harness's*",
        ]
    )


def test_a_worker_that_the_test_itself_has_ended_is_told_of_too(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        test_ended="""
        import threading

        from celery import Celery
        from celery.contrib.testing.worker import start_worker


        def test_it():
            app, lock = Celery("mine", broker="memory://", backend="cache+memory://"), threading.Lock()

            @app.task(name="locked")
            def locked():
                return lock.locked()

            with start_worker(app, perform_ping_check=False):
                assert locked.delay().get(timeout=10) is False


        def test_another():
            assert False
        """
    )

    result = downstream.run("-p", COMPAT, "--taskservice-backend=celery")

    result.assert_outcomes(failed=2)
    told = result.stdout.str()
    assert told.count("task 'locked' is not known to the worker") == 1


def test_an_app_that_a_fixture_gives_another_configuration_is_told_of(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        test_replaced="""
        import pytest
        from celery import Celery
        from celery.contrib.testing.worker import start_worker

        mine = Celery("mine", broker="memory://", backend="cache+memory://")


        @pytest.fixture
        def celery_app(celery_app):
            celery_app.conf = mine.conf
            return celery_app


        def test_it(celery_app):
            with start_worker(celery_app, ping_task_timeout=0.1): ...
        """
    )

    result = downstream.run("-p", COMPAT, "--taskservice-backend=celery")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["<Celery celery.tests *> was given another configuration (app.conf = ...)*"])
    assert "DummyClient" not in result.stdout.str()


def test_the_app_trap_is_celerys(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        test_trap="""
        import pytest
        from celery import current_app

        @pytest.fixture(scope="session")
        def use_celery_app_trap():
            return True

        def test_it(celery_app):
            with pytest.raises(RuntimeError, match="depends on current_app"):
                current_app.main
        """
    )

    downstream.run("-p", COMPAT).assert_outcomes(passed=1)


def test_a_parameter_that_no_process_can_be_told_is_one_line(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        test_parameter="""
        import pytest

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {"on_ready": lambda: None}

        def test_it(celery_worker):
            pass
        """
    )

    result = downstream.run("-p", COMPAT)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["taskservice: worker parameter 'on_ready': function * cannot be told to *"])
    assert downstream.code_shown(result) == []


FACTORY = """
from celery import Celery, Task
from celery.contrib.testing.worker import start_worker


def create_app():
    class ContextTask(Task):
        def __call__(self, *args, **kwargs):
            return self.run(*args, **kwargs)

    return Celery("web", broker="memory://", backend="cache+memory://", task_cls=ContextTask)


def test_it():
    with start_worker(create_app(), perform_ping_check=False):
        pass
"""


def test_an_app_of_a_factory_that_no_process_can_make_is_told_what_to_do(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(test_factory=FACTORY)

    result = downstream.run("-p", COMPAT, "--taskservice-backend=celery")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*the worker, another process, cannot make the app 'web' anew: its task_cls is *ContextTask*"]
    )


def test_the_same_app_runs_in_a_simulation(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(test_factory=FACTORY)

    downstream.run("-p", COMPAT, "--taskservice-backend=celery-sim").assert_outcomes(passed=1)


def test_worlds_that_have_no_worker_skip_and_say_why(suite: Downstream) -> None:
    suite.write(test_single=SINGLE)

    result = suite.run("--taskservice-backend=anyio", "-ra", "-k", "marker")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*anyio cannot: Celery's fixtures (its tasks need no Celery app)*"])


@pytest.mark.parametrize("args", [(), ("-p", COMPAT)], ids=["imported", "as a plugin"])
def test_celerys_own_plugin_may_be_there_as_well(downstream: Downstream, args: tuple[str, ...]) -> None:
    downstream.ini()
    downstream.write(conftest=MIXED, test_mixed=MIXED_TESTS)

    downstream.run(*args).assert_outcomes(passed=1)


def test_on_a_given_redis_everything_is_under_a_prefix(suite: Downstream, given_redis: RedisServer) -> None:
    import redis

    client = redis.Redis.from_url(given_redis.url)
    client.set("theirs", 1)
    suite.write(
        test_given="""
        from shopx.shared import pid

        def test_pid(celery_session_app, celery_session_worker):
            celery_session_app.set_current()
            assert pid.delay().get(timeout=15) == celery_session_worker.pid
        """
    )

    suite.run(f"--taskservice-redis={given_redis.url}").assert_outcomes(passed=1)

    assert client.keys() == [b"theirs"]
