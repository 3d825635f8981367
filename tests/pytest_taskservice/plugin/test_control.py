"""What a test has its workers do by remote control: no other test has asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_what_remote_control_changes_is_over_with_the_test(downstream: Downstream, world: str) -> None:
    downstream.write(
        test_shopx="""
        import time

        from shopx.celery import app
        from shopx.tasks import add, nap

        def told(command, *args, **arguments):
            assert getattr(app.control, command)(*args, reply=True, timeout=5, limit=1, **arguments)

        def test_rate(taskservice_app):
            told("rate_limit", "shopx.tasks.add", "1/m")
            add.delay(1, 2).get(timeout=10)

        def test_no_rate(taskservice_app):
            assert add.rate_limit is None
            assert [add.delay(1, 2).get(timeout=10) for _ in range(3)] == [3, 3, 3]

        def test_queues(taskservice_app):
            told("add_consumer", "extra")
            told("cancel_consumer", "celery")
            assert add.apply_async((1, 2), queue="extra").get(timeout=10) == 3

        def test_no_queues(taskservice_app):
            queues = app.control.inspect(timeout=5, limit=1).active_queues()
            names = {queue["name"] for found in queues.values() for queue in found}
            assert "celery" in names
            assert "extra" not in names

        def test_limit(taskservice_app):
            # A worker has looked at its tasks' limits when it started: Celery answers, and does nothing.
            told("time_limit", "shopx.tasks.nap", hard=0.5)
            assert nap.delay(1).get(timeout=10) == 1

        def test_no_limit(taskservice_app):
            assert nap.time_limit is None
            assert nap.delay(1).get(timeout=10) == 1
        """
    )

    result = downstream.run(f"--taskservice-backend={world}")

    result.assert_outcomes(passed=6)


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_events_are_sent_once_somebody_has_asked_for_them(downstream: Downstream, world: str) -> None:
    downstream.write(
        test_shopx="""
        import threading
        import time

        from shopx.celery import app
        from shopx.tasks import add

        def heard():
            events, listens = [], threading.Event()

            def listen():
                with app.connection_for_read() as connection:
                    receiver = app.events.Receiver(connection, handlers={"*": events.append})
                    listens.set()
                    try:
                        receiver.capture(limit=None, timeout=1, wakeup=False)
                    except TimeoutError:
                        return

            listener = threading.Thread(target=listen)
            listener.start()
            listens.wait(5)
            time.sleep(0.3)
            add.delay(1, 2).get(timeout=10)
            listener.join(10)
            return [event["type"] for event in events if event["type"].startswith("task-")]

        def test_it(taskservice_app):
            assert heard() == []
            app.control.enable_events(reply=True, timeout=5, limit=1)
            assert heard() == ["task-received", "task-started", "task-succeeded"]
            app.control.disable_events(reply=True, timeout=5, limit=1)
            assert heard() == []
        """
    )

    result = downstream.run(f"--taskservice-backend={world}")

    result.assert_outcomes(passed=1)


def test_a_worker_that_begins_again_has_the_limits_of_the_code(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import time

        from shopx.celery import app
        from shopx.tasks import add

        def test_rate(taskservice_app, taskservice_sim):
            app.control.rate_limit("shopx.tasks.add", "1/m", reply=True)
            taskservice_sim.inject("kill", worker="worker1@sim", restart=1)
            taskservice_sim.run_until_idle()
            started = time.time()
            assert [add.delay(1, 2).get(timeout=10) for _ in range(3)] == [3, 3, 3]
            assert time.time() - started < 5
        """
    )

    result = downstream.run("--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=1)
