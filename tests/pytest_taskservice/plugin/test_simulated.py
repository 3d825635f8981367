"""The celery-sim world from outside: somebody else's app in virtual time, with threads and loops around."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream


def test_a_celery_app_lives_through_hours_in_a_moment(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import time
        from datetime import UTC, datetime

        import pytest
        from celery import chain, chord, exceptions, group
        from shopx.tasks import add, boom, flaky, mail, nap, total

        pytestmark = pytest.mark.usefixtures("taskservice_backend")

        def test_a_countdown_is_kept():
            started = time.time()
            assert add.apply_async((1, 2), countdown=7200).get() == 3
            assert 7200 <= time.time() - started < 7201

        def test_a_body_sleeps_in_virtual_time():
            assert nap.delay(86400).get(timeout=90000) == 86400

        def test_a_wait_that_is_too_short_ends_in_virtual_time():
            with pytest.raises(exceptions.TimeoutError):
                nap.delay(60).get(timeout=30)

        def test_limits_strike():
            with pytest.raises(exceptions.SoftTimeLimitExceeded):
                nap.apply_async((3600,), soft_time_limit=5).get()

        def test_canvas():
            assert chain(add.s(1, 1), add.s(2))().get() == 4
            assert group(add.s(i, i) for i in range(5))().get() == [0, 2, 4, 6, 8]
            assert chord([add.s(i, i) for i in range(5)], total.s())().get() == 20

        def test_an_error_and_its_callback():
            with pytest.raises(ValueError, match="kettle"):
                boom.delay().get()

        def test_retries_are_counted():
            assert flaky.delay(3).get() == 3

        def test_a_routed_queue_is_served():
            assert mail.delay("hello").get() == "hello"

        def test_the_clock(taskservice_clock):
            assert taskservice_clock.now() == datetime.now(UTC)
            late = add.apply_async((1, 1), countdown=600)
            taskservice_clock.advance(minutes=9)
            assert not late.ready()
            taskservice_clock.advance(minutes=2)
            assert late.ready()

        def test_workers_answer():
            from shopx.celery import app
            assert app.control.inspect().ping()
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=10)


def test_ids_of_one_test_do_not_come_again_in_another_and_are_its_seeds(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from pathlib import Path

        import pytest
        from celery import uuid
        from shopx.tasks import add

        # As a cache of the process would.
        seen = {}

        @pytest.fixture(autouse=True)
        def ids(request, taskservice_backend):
            drawn = {add.delay(1, 1).id, uuid()}
            assert drawn.isdisjoint(seen)
            seen.update(dict.fromkeys(drawn))
            with Path("ids").open("a") as file:
                print(request.node.originalname, *sorted(drawn), file=file)

        def test_one():
            pass

        @pytest.mark.parametrize("number", [1, 2])
        def test_parameters(number):
            pass
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim")
    again = downstream.run("--taskservice-backend=celery-sim", "--taskservice-seed=0")

    result.assert_outcomes(passed=3)
    again.assert_outcomes(passed=3)
    told = (downstream.root / "ids").read_text().splitlines()
    assert told[:3] == told[3:]


def test_threads_loops_and_frozen_time_are_in_the_same_simulation(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import asyncio
        import time
        from concurrent.futures import ThreadPoolExecutor
        from datetime import datetime

        import anyio
        import pytest
        from anyio.to_thread import run_sync
        from freezegun import freeze_time
        from shopx.tasks import add, nap

        def test_threads(taskservice_app):
            with ThreadPoolExecutor(4) as pool:
                results = pool.map(lambda number: add.delay(number, 1).get(), range(8))
                assert list(results) == [1, 2, 3, 4, 5, 6, 7, 8]

        def test_a_loop_in_real_time_waits_for_a_thread(taskservice_app):
            async def main():
                return await asyncio.to_thread(lambda: add.delay(2, 2).get())

            assert asyncio.run(main()) == 4

        def test_a_blocking_service(task_service):
            assert task_service.launch_and_await_task(add, 1, 2)[1] == 3
            handle = task_service.launch_task(nap, 3600)[1]
            assert handle.result(timeout=4000) == 3600

        def test_a_blocking_wait_that_is_too_short(task_service):
            with pytest.raises(TimeoutError):
                task_service.launch_task(nap, 3600)[1].result(timeout=5)

        @pytest.mark.anyio
        async def test_an_async_service(task_service):
            started = time.time()
            _, handle = await task_service.launch_task(nap, 3600)
            assert await handle.result(timeout=4000) == 3600
            assert 3600 <= time.time() - started < 3601
            handles = await task_service.launch_many(add, [(number, 1) for number in range(20)])
            assert [await handle.result() for handle in handles] == list(range(1, 21))

        @pytest.mark.anyio
        async def test_a_loop_sleeps_beside_the_worker(taskservice_app, anyio_backend):
            late = add.apply_async((1, 1), countdown=600)
            assert not late.ready()
            await anyio.sleep(601)
            assert late.ready()
            assert await run_sync(lambda: add.delay(1, 5).get()) == 6

        def test_frozen_time(taskservice_app):
            with freeze_time("2030-01-01") as frozen:
                late = add.apply_async((1, 1), countdown=600)
                assert not late.ready()
                frozen.tick(601)
                assert late.ready()
                assert datetime.now().year == 2030
        """
    )

    result = downstream.run("-p", "anyio", "--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=9)


def test_a_wait_that_nothing_can_end_says_what_waits(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.celery import app
        from shopx.tasks import add

        def test_it(taskservice_sim):
            taskservice_sim.start_worker(queues="others")
            add.delay(1, 2).get()
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*SimulationIdleError: waited for a result, but the simulation is idle*", "*holds shopx.tasks.add*"]
    )


def test_what_pytest_means_for_the_test_is_no_failure_of_a_task(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import signal
        import time

        import pytest
        from shopx.celery import app

        @app.task
        def end(how):
            how = {"fail": pytest.fail, "skip": pytest.skip, "spin": spin}[how]
            how("the stock is gone")

        def spin(reason):
            # As pytest-timeout does it.
            signal.signal(signal.SIGALRM, lambda *_: pytest.fail("too long"))
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            while True:
                pass

        @pytest.mark.parametrize("how", ["fail", "skip", "spin"])
        def test_it(taskservice_app, how):
            end.delay(how)
            time.sleep(60)

        def test_afterwards(taskservice_app):
            pass
        """
    )

    result = downstream.run("-rsf", "--taskservice-backend=celery-sim")

    result.assert_outcomes(failed=2, skipped=1, passed=1)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*: the stock is gone",
            "FAILED*fail* - Failed: the stock is gone",
            "FAILED*spin* - Failed: too long",
        ]
    )


def test_a_real_connection_is_refused_unless_it_is_allowed(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import socket

        import pytest

        @pytest.fixture
        def port():
            with socket.create_server(("127.0.0.1", 0)) as server:
                yield server.getsockname()[1]

        def test_refused(port, taskservice_backend):
            socket.create_connection(("127.0.0.1", port), timeout=5)

        @pytest.mark.taskservice(allow_sockets=["127.0.0.1"])
        def test_allowed(port, taskservice_backend):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*no real connections in a simulation: 127.0.0.1:*allow_sockets=*"])
    assert downstream.run("--taskservice-backend=celery-sim", "--taskservice-allow-sockets=all").ret == 0


def test_the_command_that_replays_a_test_allows_it_the_same_sockets(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.tasks import add

        def test_it(taskservice_app):
            assert add.delay(1, 2).get() == 4
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim", "--taskservice-allow-sockets=db:5432,[::1]")

    result.stdout.fnmatch_lines(["replay:*--taskservice-allow-sockets='db:5432,[[]::1[]]'"])


def test_a_server_in_a_thread_of_the_test_waits_for_tasks(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import threading
        import urllib.request
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        import pytest
        from shopx.tasks import nap

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"%d" % nap.delay(60).get(timeout=100))

        @pytest.fixture(scope="module")
        def url():
            with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
                threading.Thread(target=server.serve_forever).start()
                yield f"http://127.0.0.1:{server.server_port}"
                server.shutdown()

        def test_it(url, taskservice_app):
            for _ in range(2):
                with urllib.request.urlopen(url, timeout=10) as answer:
                    assert answer.read() == b"60"
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim", "--taskservice-allow-sockets=127.0.0.1")

    result.assert_outcomes(passed=1)


def test_a_suite_that_forbids_sockets_by_itself_runs(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import socket
        import unittest

        import pytest

        from shopx.tasks import add


        def forbidden(*args, **kwargs):
            raise RuntimeError("no sockets")


        class TestWithout(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.held, socket.socket = socket.socket, forbidden

            @classmethod
            def tearDownClass(cls):
                socket.socket = cls.held

            def test_a_task_runs(self):
                assert add.delay(1, 2).get() == 3

            def test_a_socket_of_before_is_refused_by_the_simulation(self):
                with self.held() as unconnected, pytest.raises(Exception, match="no real connections"):
                    unconnected.connect(("127.0.0.1", 9))
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim", "-o", "usefixtures=taskservice_app")

    result.assert_outcomes(passed=2)


CONNECTIONS = """
import pytest
from celery import Celery
from kombu import Connection

URLS = ["amqp://", "amqp://shop:secret@rabbit//", "amqps://rabbit", "redis://cache/3", "rediss://cache:7000"]
MEANT = {}


@pytest.mark.parametrize("url", URLS)
def test_before(url):
    with_broker = Celery(broker=url).connection()
    MEANT[url] = with_broker.as_uri(), with_broker.info()["userid"], with_broker.info()["port"]


@pytest.mark.parametrize("url", URLS)
def test_within(taskservice_sim, url):
    with_broker = Celery(broker=url).connection()
    assert (with_broker.as_uri(), with_broker.info()["userid"], with_broker.info()["port"]) == MEANT[url]


def test_a_port_that_is_left_out_is_the_usual_one(taskservice_sim):
    with Connection("amqp://rabbit") as one, Connection("amqp://rabbit:5672") as other:
        one.SimpleQueue("orders").put("chair")
        assert other.SimpleQueue("orders").get(timeout=1).payload == "chair"
"""


def test_a_connection_tells_what_its_url_leaves_out(downstream: Downstream) -> None:
    downstream.ini(taskservice_app="shopx.celery:app")
    downstream.write(test_connections=CONNECTIONS)

    downstream.run("--taskservice-backend=celery-sim").assert_outcomes(passed=11)


def test_what_is_kept_for_the_next_simulation_is_gone_for_any_other_test(downstream: Downstream) -> None:
    downstream.write(
        conftest="""
        from kombu.connection import Connection

        def is_kombus():
            return Connection.ensure.__module__ == "kombu.connection"

        def pytest_configure(config):
            # Done in reverse, so after all plugins have cleaned up.
            config.add_cleanup(lambda: print("at the end:", is_kombus()))
        """,
        test_shopx="""
        import pytest
        from conftest import is_kombus
        from shopx.tasks import add

        def test_simulated(taskservice_app):
            assert add.delay(1, 2).get() == 3
            assert not is_kombus()

        @pytest.fixture(scope="class")
        def before():
            return is_kombus()

        class TestPlain:
            def test_plain(self, before):
                assert before and is_kombus()

        def test_simulated_again(taskservice_app):
            assert add.delay(1, 2).get() == 3
            assert not is_kombus()
        """,
    )

    result = downstream.run("--taskservice-backend=celery-sim", "-s")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["at the end: True"])
