"""Event loops that a test of the simulator runs, whoever makes them: they are in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

SIMULATED = ("-p", "asyncio", "-o", "usefixtures=taskservice_app", "--taskservice-backend=celery-sim")
MODULE = """
    import asyncio
    import threading
    import time
    import unittest

    import pytest
    from shopx.tasks import add, nap

    async def works():
        started = time.time()
        sent = add.apply_async((1, 2), countdown=3600)
        await asyncio.sleep(3601)
        assert sent.ready()
        assert 3601 <= time.time() - started < 3602
        polled = nap.delay(600)
        while not polled.ready():
            await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(nap.delay(60).get), 30)
        return polled.result
"""


def test_tests_of_pytest_asyncio_wait_in_virtual_time(downstream: Downstream) -> None:
    downstream.write(
        test_shopx=MODULE
        + """
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def sent():
        sent = add.apply_async((1, 2), countdown=3600)
        await asyncio.sleep(3601)
        yield sent

    @pytest_asyncio.fixture(scope="session")
    async def early():
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    @pytest.mark.asyncio
    async def test_function():
        assert await works() == 600

    @pytest.mark.asyncio
    async def test_fixture(sent):
        assert sent.ready()

    @pytest.mark.asyncio(loop_scope="module")
    async def test_loop_of_a_module():
        assert await works() == 600

    @pytest.mark.asyncio(loop_scope="module")
    async def test_the_same_loop_once_more():
        assert await works() == 600

    @pytest.mark.asyncio(loop_scope="session")
    async def test_loop_of_the_session(early):
        assert early is asyncio.get_running_loop()
        assert await works() == 600
    """
    )

    result = downstream.run(*SIMULATED)

    result.assert_outcomes(passed=5)


def test_loops_that_a_test_makes_or_finds_wait_in_virtual_time(downstream: Downstream) -> None:
    downstream.write(
        test_shopx=MODULE
        + """
    class TestCase(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            await asyncio.sleep(3600)

        async def test_it(self):
            self.assertEqual(await works(), 600)

    def test_run():
        assert asyncio.run(works()) == 600

    def test_runner():
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            assert [runner.run(works()), runner.run(works())] == [600, 600]

    def test_thread_that_polls():
        def poll():
            while not sent.ready():
                time.sleep(1)
            polled.append(sent.result)

        sent, polled = nap.delay(60), []
        thread = threading.Thread(target=poll)
        thread.start()
        thread.join(100)
        assert polled == [60]

    def test_policy():
        loop = asyncio.get_event_loop_policy().new_event_loop()
        try:
            assert loop.run_until_complete(works()) == 600
        finally:
            loop.close()
    """
    )

    result = downstream.run(*SIMULATED, "-W", "ignore::DeprecationWarning")

    result.assert_outcomes(passed=5)


def test_time_waits_for_threads_and_processes_that_somebody_waits_for(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        import asyncio
        import threading
        from concurrent.futures import ProcessPoolExecutor

        import pytest

        def work():
            for _ in range(40):
                sum(range(400_000))
            return "done"

        @pytest.mark.asyncio
        async def test_thread():
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            threading.Thread(target=lambda: (work(), loop.call_soon_threadsafe(done.set))).start()
            await asyncio.wait_for(done.wait(), 5)

        @pytest.mark.asyncio
        async def test_process():
            with ProcessPoolExecutor(1) as pool:
                waited = asyncio.get_running_loop().run_in_executor(pool, work)
                assert await asyncio.wait_for(waited, 5) == "done"

        def test_after_a_loop():
            asyncio.run(asyncio.sleep(1))
            done = threading.Event()
            threading.Thread(target=lambda: (work(), done.set())).start()
            assert done.wait(5)
            with ProcessPoolExecutor(1) as pool:
                assert pool.submit(work).result(timeout=5) == "done"
        """
    )

    downstream.run(*SIMULATED).assert_outcomes(passed=3)


def test_time_waits_for_what_the_loop_of_a_task_waits_for(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import asyncio
        import queue
        import subprocess
        import sys
        import threading

        import pytest
        from shopx.celery import app

        class Connection:
            # As aiosqlite has it: a thread of its own, which no executor knows of.
            def __init__(self):
                self.asked = queue.SimpleQueue()
                threading.Thread(target=self.serve, daemon=True).start()

            def serve(self):
                while (future := self.asked.get()) is not None:
                    found = sum(sum(range(100_000)) for _ in range(40))
                    future.get_loop().call_soon_threadsafe(future.set_result, found)

            async def execute(self):
                future = asyncio.get_running_loop().create_future()
                self.asked.put(future)
                return await future

        async def query():
            connection = Connection()
            await connection.execute()
            await asyncio.sleep(1)
            found = await connection.execute()
            connection.asked.put(None)
            return found

        async def fetch(port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"ask")
            answer = await asyncio.wait_for(reader.readexactly(6), 5)
            writer.close()
            return answer.decode()

        @app.task
        def ask_thread():
            return asyncio.run(query())

        @app.task
        def ask_socket(port):
            return asyncio.run(fetch(port))

        @pytest.fixture
        def port():
            command = [sys.executable, "server.py"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
                yield int(server.stdout.readline())

        def test_thread():
            assert ask_thread.delay().get(timeout=5) == 199_998_000_000

        def test_socket(port):
            assert ask_socket.delay(port).get(timeout=5) == "answer"
        """,
        server="""
        import socket
        import time

        with socket.create_server(("127.0.0.1", 0)) as server:
            print(server.getsockname()[1], flush=True)
            connection, _ = server.accept()
            connection.recv(3)
            time.sleep(0.2)
            connection.sendall(b"answer")
        """,
    )

    downstream.run(*SIMULATED, "--taskservice-allow-sockets=127.0.0.1").assert_outcomes(passed=2)


def test_trio_waits_in_virtual_time_too(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import anyio
        import trio
        from shopx.tasks import add

        async def works():
            sent = add.apply_async((1, 2), countdown=3600)
            await anyio.sleep(3601)
            return sent.ready()

        def test_run():
            assert trio.run(works)

        def test_run_by_anyio():
            assert anyio.run(works, backend="trio")
            assert anyio.run(works, backend="asyncio")
        """
    )

    result = downstream.run(*SIMULATED)

    result.assert_outcomes(passed=2)


def test_a_loop_is_what_it_was_when_the_test_is_over(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import asyncio
        import time

        import pytest

        @pytest.fixture(scope="module")
        def loop():
            loop = asyncio.SelectorEventLoop()
            loop.due = []
            loop.call_later(1800, loop.due.append, "timer")
            before = type(loop), set(vars(loop)), loop.time()
            yield loop
            # Real time: the loop has waited for virtual hours and is not late.
            loop.run_until_complete(asyncio.sleep(0.01))
            assert loop.due == []
            assert (type(loop), set(vars(loop))) == before[:2]
            assert before[2] < loop.time() < before[2] + 60
            loop.close()

        def test_not_yet(loop):
            loop.run_until_complete(asyncio.sleep(600))
            assert loop.due == []

        @pytest.mark.parametrize("name", ["a", "b"])
        def test_later_in_this_test(loop, name):
            loop.call_later(1200, loop.due.append, name)
            loop.run_until_complete(asyncio.sleep(1199))
            assert loop.due == []
            loop.run_until_complete(asyncio.sleep(2))
            assert loop.due == [name]
            loop.due.clear()
        """
    )

    result = downstream.run(*SIMULATED)

    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("scope", ["function", "module"])
def test_in_process_tasks_have_pytest_asyncios_loops_too(downstream: Downstream, scope: str) -> None:
    downstream.write(
        test_shopx=f"""
        import asyncio
        import time

        import pytest
        from taskservice import task

        @task
        async def rest(seconds):
            await asyncio.sleep(seconds)
            return seconds

        @pytest.mark.asyncio(loop_scope="{scope}")
        @pytest.mark.parametrize("hours", [1, 24])
        async def test_it(taskservice_backend, hours):
            started = time.time()
            await asyncio.sleep(hours * 3600)
            assert time.time() - started == hours * 3600
        """
    )

    result = downstream.run("-p", "asyncio", "--taskservice-backend=anyio", "-k", "asyncio")

    assert "failed" not in result.parseoutcomes()
    assert result.parseoutcomes()["passed"] >= 2


def test_what_a_task_brings_wakes_the_loop_of_the_test(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import asyncio

        import pytest
        import redis
        import redis.asyncio
        from shopx.celery import app

        @app.task
        def tell(text):
            redis.Redis().publish("news", text)
            redis.Redis().rpush("list", text)

        @pytest.mark.asyncio
        async def test_pubsub():
            async with redis.asyncio.Redis() as client, client.pubsub() as pubsub:
                await pubsub.subscribe("news")
                await pubsub.get_message(timeout=1)
                tell.apply_async(("late",), countdown=3600)
                async for message in pubsub.listen():
                    assert message["data"] == b"late"
                    break

        @pytest.mark.asyncio
        async def test_blocking_pop():
            async with redis.asyncio.Redis() as client:
                tell.delay("soon")
                assert await client.blpop("list", timeout=5) == (b"list", b"soon")
        """
    )

    result = downstream.run(*SIMULATED)

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("world", ["celery-sim", "anyio"])
def test_a_timeout_beside_a_process_is_due(downstream: Downstream, world: str) -> None:
    downstream.write(
        test_shopx="""
        import asyncio

        import pytest

        @pytest.mark.asyncio
        async def test_kill():
            process = await asyncio.create_subprocess_exec("sleep", "300")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.1)
            process.kill()
            assert await process.wait() == -9

        @pytest.mark.asyncio
        async def test_silence():
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.stdout.readline(), 0.1)
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), 60) == 0
        """
    )
    fixture = "taskservice_backend" if world == "anyio" else "taskservice_app"

    result = downstream.run(
        "-p", "asyncio", "-o", f"usefixtures={fixture}", f"--taskservice-backend={world}", "-k", "not trio"
    )

    result.assert_outcomes(passed=2, deselected=2 if world == "anyio" else 0)
