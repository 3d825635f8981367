"""The worker process: what it finds, what it forgets between two tests, and what it tells when one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

CELERY = "--taskservice-backend=celery"


def test_tasks_are_found_wherever_a_module_defines_them(downstream: Downstream) -> None:
    downstream.write(
        conftest="""
        import pytest
        from shopx.celery import app

        @app.task
        def of_conftest():
            return "conftest"

        @pytest.fixture
        def of_the_conftest():
            return of_conftest
        """,
        shopx__late="""
        from shopx.celery import app

        @app.task
        def of_late():
            return "late"
        """,
        test_shopx="""
        from shopx.celery import app
        from shopx.tasks import add

        @app.task
        def of_test_module():
            return "test module"

        def test_app(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5

        def test_test_module(taskservice_app):
            assert of_test_module.delay().get(timeout=5) == "test module"

        def test_conftest(taskservice_app, of_the_conftest):
            assert of_the_conftest.delay().get(timeout=5) == "conftest"

        def test_module_imported_in_a_test(taskservice_app):
            from shopx.late import of_late

            assert of_late.delay().get(timeout=5) == "late"
        """,
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=4)


def test_a_task_inside_a_function_is_not_registered_and_the_report_says_why(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.celery import app

        def test_local(taskservice_app):
            @app.task
            def local(): ...

            local.delay().get(timeout=5)
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *NotRegistered*local*", "*taskservice hint*", "*inside a function*"])


def test_what_a_test_leaves_is_not_seen_by_the_next_and_costs_it_little(downstream: Downstream) -> None:
    downstream.write(
        shopx__diary="""
        from pathlib import Path
        from shopx.celery import app

        @app.task
        def write(path, line):
            with Path(path).open("a") as diary:
                diary.write(line + "\\n")
        """,
        test_shopx="""
        import time
        import pytest
        from pathlib import Path
        from shopx.celery import app
        from shopx.diary import write
        from shopx.tasks import add, nap

        DIARY = str(Path(__file__).with_name("diary"))
        ENDED = []

        def ended():
            ENDED.append(time.monotonic())

        @pytest.fixture(autouse=True)
        def world(request):
            request.getfixturevalue("taskservice_app")
            assert not ENDED or time.monotonic() - ENDED.pop() < 20

        def test_leaves_running_and_waiting():
            # Both slots sleep, so the third is in the queue or held by the worker.
            marks = [Path(__file__).with_name(name) for name in ("first", "second")]
            for mark in marks:
                nap.delay(60, str(mark))
            deadline = time.monotonic() + 5
            while not all(mark.exists() for mark in marks) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert all(mark.exists() for mark in marks)
            for _ in range(20):
                write.delay(DIARY, "queued")
            ended()

        def test_after_running():
            assert add.delay(2, 3).get(timeout=3) == 5
            # The worker may not have heard yet that its process has done the one above.
            (active,) = app.control.inspect(timeout=2, limit=1).active().values()
            assert [run["name"] for run in active] in ([], ["shopx.tasks.add"])
            ended()

        def test_leaves_a_countdown():
            write.apply_async((DIARY, "countdown"), countdown=60)
            write.apply_async((DIARY, "countdown"), countdown=1)
            ended()

        def test_after_countdown():
            assert add.delay(2, 3).get(timeout=3) == 5
            nap.delay(1.2).get(timeout=5)
            ended()

        def test_leaves_a_message_in_a_queue_nobody_reads():
            app.control.cancel_consumer("mails", reply=True, timeout=2, limit=1)
            write.apply_async((DIARY, "left in the queue"), queue="mails")
            app.control.add_consumer("mails", reply=True, timeout=2, limit=1)

        def test_nothing_was_seen():
            write.apply_async((DIARY, "now"), queue="mails").get(timeout=5)
            assert Path(DIARY).read_text() == "now\\n"
        """,
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=6)


def test_a_countdown_of_an_earlier_test_is_not_among_the_scheduled(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.celery import app
        from shopx.tasks import add

        def test_leaves_a_countdown(taskservice_app):
            add.apply_async((2, 3), countdown=60)

        def test_sees_none(taskservice_app):
            assert app.control.inspect(timeout=2, limit=1).scheduled() == {"celery@taskservice": []}
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=2)


def test_a_worker_that_a_test_kills_is_replaced_for_the_next(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import os
        import signal
        from shopx.celery import app
        from shopx.tasks import add, who

        PIDS = []

        def kill():
            PIDS.append(who.delay().get(timeout=5))
            os.kill(PIDS[-1], signal.SIGKILL)

        def test_kills(taskservice_app):
            kill()

        def test_is_served(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
            assert who.delay().get(timeout=5) not in PIDS

        def test_kills_and_sends(taskservice_app):
            kill()
            add.delay(2, 3)

        def test_is_served_again(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
            assert who.delay().get(timeout=5) not in PIDS
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=4)


def test_one_worker_serves_routes_retries_chords_and_unlisted_queues(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from celery import chord
        from shopx.tasks import add, flaky, mail, total, who

        WORKERS = set()

        @pytest.fixture(autouse=True)
        def world(request):
            if request.node.name != "test_the_worker_was_one":
                request.getfixturevalue("taskservice_app")
                WORKERS.add(who.delay().get(timeout=5))

        def test_routed(taskservice_driver):
            sent = mail.delay("hello")
            assert sent.get(timeout=5) == "hello"
            taskservice_driver.settle(timeout=5)
            events = [event for event in taskservice_driver.log() if event.run == sent.id]
            assert [event.kind for event in events] == ["sent", "received", "started", "succeeded"]
            assert events[0].detail["queue"] == "mails"

        def test_retried(taskservice_app):
            assert flaky.delay(2).get(timeout=5) == 2

        def test_chord(taskservice_app):
            assert chord([add.s(1, 2), add.s(3, 4)])(total.s()).get(timeout=5) == 10

        def test_unlisted_queue(taskservice_app):
            assert add.apply_async((2, 3), queue="nobody-listed").get(timeout=5) == 5

        def test_the_worker_was_one():
            assert len(WORKERS) == 1
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=5)


def test_what_json_cannot_carry_is_a_clear_error(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from celery.exceptions import TimeoutError
        from kombu.exceptions import EncodeError
        from shopx.celery import app
        from shopx.tasks import add

        @app.task
        def give():
            return object()

        def test_argument(taskservice_app):
            with pytest.raises(EncodeError, match="not JSON serializable"):
                add.delay(object(), 1)

        def test_result(taskservice_app):
            with pytest.raises(Exception, match="not JSON serializable") as caught:
                give.delay().get(timeout=5)
            assert not isinstance(caught.value, TimeoutError)
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=2)


def test_pickle_is_refused_and_the_report_says_so(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.tasks import add

        def test_pickle(taskservice_app, taskservice_driver):
            add.apply_async((2, 3), serializer="pickle", ignore_result=True)
            taskservice_driver.settle(timeout=5)
            assert [event.kind for event in taskservice_driver.log()] == ["sent", "succeeded"]
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*Refusing to deserialize untrusted content of type pickle*")


def test_who_is_root_may_test_an_app_that_accepts_pickle(downstream: Downstream) -> None:
    downstream.write(
        conftest="""
        from shopx.celery import app

        app.conf.update(task_serializer="pickle", accept_content=["json", "pickle"])
        """,
        shopx__root="""
        import os

        os.getuid = os.geteuid = lambda: 0
        """,
        test_shopx="""
        from celery import shared_task
        from shopx import root

        @shared_task
        def count(found):
            return len(found)

        def test_it(taskservice_app):
            assert count.delay({1, 2, 3}).get(timeout=5) == 3
        """,
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=1)


def test_a_result_that_never_comes_does_not_hold_up_the_end(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.tasks import nap

        def test_waits_in_vain(taskservice_app):
            nap.delay(60).get(timeout=0.1)
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(failed=1)
    assert result.duration < 30
    result.stderr.no_fnmatch_line("*Exception ignored*")


def test_a_failing_test_shows_history_and_worker_log_of_this_test_only(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.tasks import boom, nap

        def test_before(taskservice_app):
            nap.delay(0.001).get(timeout=5)

        def test_fails(taskservice_app):
            boom.delay().get(timeout=5)
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- taskservice history -*",
            "*0.000 s  sent *shopx.tasks.boom*",
            "*failed *shopx.tasks.boom*the kettle is empty*",
            "*- taskservice worker log -*",
            "*shopx.tasks.boom*raised unexpected: ValueError('the kettle is empty')",
        ]
    )
    result.stdout.no_fnmatch_line("*shopx.tasks.nap*")


@pytest.mark.parametrize(("pool", "implementation"), [("threads", "thread:"), ("solo", "solo:")])
def test_other_pools_serve_too_and_forget_what_a_test_leaves(
    downstream: Downstream, pool: str, implementation: str
) -> None:
    downstream.write(
        test_shopx=f"""
        import time
        from shopx.celery import app
        from shopx.tasks import add, flaky, nap

        ENDED = []

        def test_pool(taskservice_app):
            stats = app.control.inspect(timeout=2, limit=1).stats()["celery@taskservice"]
            assert "{implementation}" in stats["pool"]["implementation"]
            assert flaky.delay(1).get(timeout=5) == 1

        def test_leaves_running(taskservice_app):
            nap.delay(60)
            ENDED.append(time.monotonic())

        def test_after(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
            assert time.monotonic() - ENDED[0] < 20
        """
    )

    result = downstream.run(CELERY, f"--taskservice-pool={pool}")

    result.assert_outcomes(passed=3)


def test_a_worker_that_dies_at_start_fails_all_tests_at_once_and_shows_its_last_words(
    downstream: Downstream,
) -> None:
    downstream.write(
        shopx__licence="""
        import sys
        from shopx.celery import app

        if "pytest" not in sys.modules:
            raise RuntimeError("no licence")

        @app.task
        def licensed(): ...
        """,
        test_shopx="""
        import pytest
        from shopx.licence import licensed

        @pytest.mark.parametrize("number", range(20))
        def test_it(taskservice_app, number): ...
        """,
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(errors=20)
    result.stdout.fnmatch_lines(
        [
            "*taskservice: the worker died at start, exit code 1; last lines of its log:",
            "*RuntimeError: no licence",
        ]
    )
    # The first test has waited for it; the others know.
    known = [line for line in result.outlines if line.startswith("taskservice: as before, the worker died")]
    assert len(known) == 19


def test_a_temporary_directory_with_a_long_path_is_no_obstacle(
    downstream: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A unix socket's path has room for a hundred characters.
    long = downstream.temporary / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    downstream.write(
        test_shopx="""
        from shopx.tasks import add

        def test_it(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
        """
    )

    result = downstream.run(CELERY)

    result.assert_outcomes(passed=1)
    # Nothing is left in it either.
    long.rmdir()


def test_a_forked_test_leaves_the_sessions_worker_to_the_session(downstream: Downstream) -> None:
    downstream.ini(taskservice_app="shopx.celery:app")
    downstream.write(
        conftest="""
        import os

        from _pytest.runner import runtestprotocol


        def pytest_runtest_protocol(item, nextitem):
            if item.name.startswith("test_forked"):
                reading, writing = os.pipe()
                if not os.fork():
                    [setup, _] = runtestprotocol(item, log=False)
                    os.write(writing, str(setup.longrepr).encode())
                    os._exit(0)
                os.close(writing)
                assert b"from which this test was forked" in os.read(reading, 10_000)
                os.wait()
                return True
        """,
        test_forks="""
        from shopx.tasks import add


        def test_forked(taskservice_app):
            add.delay(1, 2).get(timeout=10)


        def test_after_it(taskservice_app):
            assert add.delay(1, 2).get(timeout=10) == 3


        def test_forked_from_where_a_worker_serves(taskservice_app):
            add.delay(1, 2).get(timeout=10)


        def test_after_that(taskservice_app):
            assert add.delay(1, 2).get(timeout=10) == 3
        """,
    )

    downstream.run("--taskservice-backend=celery").assert_outcomes(passed=2)
