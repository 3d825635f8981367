"""Somebody else's suite that uses Celery's own fixtures, in the ``celery-sim`` world."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

pytestmark = pytest.mark.internals

CONFTEST = """
import pytest

from pytest_taskservice.celery_compat import celery_app


@pytest.fixture(scope="session")
def celery_config():
    return {"broker_url": "pyamqp://", "result_backend": "redis://localhost:6390/3"}


@pytest.fixture(scope="session")
def celery_includes():
    return ["shopx.shared"]


@pytest.fixture(scope="session")
def celery_worker_pool():
    return "prefork"
"""

SHARED = """
import time

from celery import shared_task


@shared_task
def add(x, y):
    return x + y


@shared_task(bind=True, max_retries=3)
def flaky(self, failures):
    if self.request.retries < failures:
        raise self.retry(countdown=60)
    return self.request.retries


@shared_task
def nap(seconds):
    time.sleep(seconds)
    return seconds
"""

SINGLE = """
from celery.contrib.testing.worker import start_worker


def test_a_task_of_the_test_itself(celery_app, celery_worker):
    factor = 3

    @celery_app.task
    def triple(x):
        return x * factor

    celery_worker.reload()
    assert triple.delay(2).get(timeout=10) == 6


def test_any_app_is_served_by_start_worker(celery_app):
    @celery_app.task
    def five():
        return 5

    with start_worker(celery_app, perform_ping_check=False):
        assert five.delay().get(timeout=10) == 5
"""

SUITE = """
import time
import uuid

import pytest
import redis
from celery import chord, group
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from shopx.shared import add, flaky, nap

KNOWN = set()


@pytest.fixture(autouse=True)
def serving(celery_session_app, celery_session_worker):
    celery_session_app.set_current()


@pytest.mark.parametrize("number", range(3))
def test_ids_never_come_again(number):
    drawn = {str(uuid.uuid4()), add.delay(1, 1).id}
    assert not drawn & KNOWN
    KNOWN.update(drawn)


def test_canvas():
    assert chord([add.s(i, i) for i in range(5)], add.si(1, 1))().get(timeout=10) == 2
    assert group(add.s(i, i) for i in range(3))().get(timeout=10) == [0, 2, 4]


def test_retries_take_no_real_time():
    assert flaky.delay(3).get(timeout=1000) == 3


def test_revoked(celery_session_app):
    nap.delay(30)
    waiting = nap.apply_async((1,), countdown=10)
    waiting.revoke()
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=60)


def test_inspect(celery_session_app, celery_session_worker):
    nap.delay(30)
    time.sleep(1)
    inspect = celery_session_app.control.inspect()
    [[running]] = inspect.active().values()
    assert running["name"] == "shopx.shared.nap"
    assert inspect.ping() == {celery_session_worker.hostname: {"ok": "pong"}}
    assert "shopx.shared.add" in inspect.registered()[celery_session_worker.hostname]


@pytest.mark.celery(result_backend="redis://localhost:6390/4?decode_responses=true")
def test_a_back_end_that_decodes(celery_app):
    backend = celery_app.backend
    backend.store_result("one", {"text": "\u00e4"}, "SUCCESS")
    assert isinstance(backend.client.get(backend.get_key_for_task("one")), str)
    assert AsyncResult("one", app=celery_app).get(timeout=1) == {"text": "\u00e4"}


def test_redis_clients_meet_in_one_redis():
    redis.Redis(port=6390, db=3).set("answer", 42)
    assert redis.Redis(port=6390, db=3).get("answer") == b"42"


def test_what_the_test_before_has_left_is_gone():
    assert redis.Redis(port=6390, db=3).get("answer") is None
"""


def test_a_suite_runs_unchanged(downstream: Downstream) -> None:
    downstream.ini()
    # Before any session's worker: it would take what is meant for the workers of single tests.
    downstream.write(conftest=CONFTEST, shopx__shared=SHARED, test_a_single=SINGLE, test_suite=SUITE)

    result = downstream.run("--taskservice-backend=celery-sim", "--taskservice-seed=5")

    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(
        ["taskservice: Celery's fixtures in the world celery-sim: 12 simulations, seed 5"]
    )


FORKED = """
import pytest
from celery import signals
from kombu.serialization import registry

from shopx.shared import add

HEARD = []


@signals.task_prerun.connect
def before_the_pool(sender=None, **_):
    HEARD.append("module")


@pytest.mark.parametrize("reloads", [False, True])
def test_what_is_connected_later(celery_session_app, celery_session_worker, reloads):
    celery_session_app.set_current()
    HEARD.clear()

    def prerun(sender=None, **_):
        HEARD.append("body")

    def received(sender=None, **_):
        HEARD.append("main process")

    signals.task_prerun.connect(prerun)
    signals.task_received.connect(received)
    if reloads:
        celery_session_worker.reload()

    assert add.delay(1, 1).get(timeout=10) == 2
    assert HEARD == ["main process", "module"] + ["body"] * reloads


def test_a_serializer_that_is_registered_later(celery_session_app, celery_session_worker):
    celery_session_app.set_current()
    celery_session_app.conf.accept_content = ["json", "late"]
    registry.register("late", repr, eval, "application/x-late")

    result = add.apply_async((1, 1), serializer="late")

    with pytest.raises(Exception, match="unpack"):
        result.get(timeout=10)
"""


def test_children_of_a_prefork_pool_know_what_there_was_when_they_were_forked(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(conftest=CONFTEST, shopx__shared=SHARED, test_forked=FORKED)

    downstream.run("--taskservice-backend=celery-sim").assert_outcomes(passed=3)


ALONE = """
import http.server
import threading
import time
import urllib.request


def test_celery(celery_app, celery_worker):
    @celery_app.task
    def one():
        return 1

    celery_worker.reload()
    assert one.delay().get(timeout=5) == 1


def test_a_server_of_its_own():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    with server:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/")
        except urllib.error.HTTPError as error:
            assert error.code == 501


def test_the_time_is_real():
    before = time.perf_counter()
    time.sleep(0.05)
    assert time.perf_counter() - before >= 0.05
    assert time.sleep.__module__ == "time"


def test_celery_unforeseen(request):
    time.sleep(0.01)
    app = request.getfixturevalue("celery_app")
    worker = request.getfixturevalue("celery_worker")

    @app.task
    def nap():
        time.sleep(600)

    worker.reload()
    nap.delay().get(timeout=700)
"""


def test_what_does_not_ask_for_celery_is_in_no_simulation(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(test_alone=ALONE)

    result = downstream.run("-p", "pytest_taskservice.celery_compat", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*in the world celery-sim: 2 simulations, seed 0"])


MANY = """
import pytest
from celery import Task


class Many(Task):
    abstract = True

    def Strategy(self, task, app, consumer):
        taken = []

        def take(message, body, ack, reject, callbacks, **_):
            taken.append((message, ack))
            if len(taken) == 2:
                ids = [each.headers["id"] for each, _ in taken]
                done = lambda _: [ack() for _, ack in taken]
                consumer.pool.apply_async(apart, (task, ids), callback=done)

        return take


def apart(task, ids):
    return task(ids)


@pytest.mark.parametrize("found", [4, None, [1]])
def test_one_call_for_two_messages(celery_app, celery_worker, found):
    @celery_app.task(base=Many, typing=False)
    def both(ids):
        for each in ids:
            celery_app.backend.mark_as_done(each, ids)
        return found

    celery_worker.reload()
    results = [both.delay(), both.delay()]
    ids = [each.id for each in results]

    assert [each.get(timeout=10) for each in results] == [ids, ids]


def test_one_call_that_fails(celery_app, celery_worker):
    @celery_app.task(base=Many, typing=False)
    def both(ids):
        raise OSError("disk full")

    celery_worker.reload()
    both.delay()
    with pytest.raises(Exception, match="idle"):
        both.delay().get()

    assert celery_app.control.ping(timeout=1)
"""


def test_a_strategy_of_ones_own_gives_the_pool_any_function(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(conftest=CONFTEST, shopx__shared=SHARED, test_many=MANY)

    downstream.run("--taskservice-backend=celery-sim").assert_outcomes(passed=4)


BESIDE = """
import pytest
from celery import Celery

app = Celery("beside", broker="memory://", backend="cache+memory://")


@app.task
def double(x):
    return 2 * x


@pytest.fixture(scope="session")
def celery_config():
    return {"broker_url": "memory://", "result_backend": "cache+memory://"}


@pytest.mark.parametrize("number", range(3))
def test_any_worker_of_the_broker_serves_it(celery_session_worker, number):
    assert double.delay(number).get(timeout=10) == 2 * number
"""


def test_an_app_beside_the_fixtures_is_in_each_simulation_anew(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(test_beside=BESIDE)

    result = downstream.run("-p", "pytest_taskservice.celery_compat", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=3)


def test_time_does_not_leap_where_a_worker_is_started_in_the_midst_of_a_test(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        test_late="""
        from datetime import UTC, datetime, timedelta

        from celery.contrib.testing.worker import start_worker
        from shopx.celery import app
        from shopx.tasks import add

        def test_eta_of_before():
            soon = datetime.now(UTC) + timedelta(minutes=1)
            with start_worker(app, perform_ping_check=False):
                add.apply_async((1, 2), eta=soon).get(timeout=90)
                assert timedelta(0) <= datetime.now(UTC) - soon < timedelta(seconds=5)

        def test_from_the_start(celery_session_worker):
            assert datetime.now(UTC).year == 2026
            assert datetime.now(UTC).month == 1
        """
    )

    result = downstream.run("-p", "pytest_taskservice.celery_compat", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=2)
