"""Which worlds a test runs in, and what becomes of a test in a world that cannot show what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

ALL = ("celery", "celery-sim", "celery-eager", "anyio-asyncio", "anyio-trio")


def ids(result: pytest.RunResult) -> tuple[str, ...]:
    return tuple(line.partition("[")[2].rstrip("]") for line in result.outlines if "::test_" in line)


@pytest.mark.parametrize(
    ("ini", "option", "expected"),
    [
        (None, None, ("celery",)),
        (None, "all", ALL),
        (None, "anyio,celery", ("anyio-asyncio", "anyio-trio", "celery")),
        ("celery-eager", None, ("celery-eager",)),
        ("celery-eager", "celery", ("celery",)),
    ],
    ids=["default", "all", "list", "ini", "option-wins"],
)
def test_a_test_has_a_readable_id_in_every_chosen_world(
    downstream: Downstream, ini: str | None, option: str | None, expected: tuple[str, ...]
) -> None:
    downstream.write(test_shopx="def test_it(task_service): ...")
    downstream.ini(**({"taskservice_backend": ini} if ini else {}))

    result = downstream.run("--collect-only", "-q", *([f"--taskservice-backend={option}"] if option else []))

    assert ids(result) == expected


def test_a_marker_narrows_the_worlds(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest

        @pytest.mark.taskservice(backend="celery-eager,anyio")
        def test_text(taskservice_backend): ...

        @pytest.mark.taskservice(backend=["celery"])
        def test_list(taskservice_app): ...

        @pytest.mark.taskservice(backend="celery-eager")
        def test_no_fixture(): ...
        """
    )

    result = downstream.run("--collect-only", "-q", "--taskservice-backend=all")

    assert ids(result) == ("celery-eager", "anyio-asyncio", "anyio-trio", "celery", "celery-eager")


def test_a_marker_for_a_world_that_was_not_chosen_is_a_skip_that_says_so(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest

        @pytest.mark.taskservice(backend="celery")
        def test_it(task_service): ...
        """
    )

    result = downstream.run("-rs", "--taskservice-backend=anyio,celery-eager")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*meant for celery; chosen: anyio, celery-eager*")


def test_a_marker_changes_the_workers_settings_for_one_test(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from celery.exceptions import TimeLimitExceeded
        from shopx.celery import app
        from shopx.tasks import nap

        @app.task
        def limit():
            return app.conf.task_time_limit

        @pytest.mark.taskservice(config={"task_time_limit": 1})
        def test_ends(taskservice_app):
            assert limit.delay().get(timeout=10) == 1
            with pytest.raises(TimeLimitExceeded):
                nap.delay(30).get(timeout=10)

        def test_gone(taskservice_app):
            assert app.conf.task_time_limit is None
            assert limit.delay().get(timeout=10) is None
        """
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--taskservice-backend=celry", "unknown backend 'celry'; did you mean 'celery'?*"),
        ("--taskservice-redis=embeded", "unknown redis provider 'embeded'; did you mean 'embedded'?*"),
        ("--taskservice-pool=prefrk", "unknown pool 'prefrk'; did you mean 'prefork'?*"),
        ("--taskservice-concurrency=none", "--taskservice-concurrency needs a number*'none'"),
    ],
)
def test_an_unknown_word_is_a_usage_error_that_offers_the_nearest(
    downstream: Downstream, option: str, message: str
) -> None:
    downstream.write(test_shopx="def test_it(task_service): ...")

    result = downstream.run(option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"ERROR: taskservice: {message}")
    assert downstream.code_shown(result) == []


def test_an_unknown_backend_in_a_marker_names_the_test_and_the_nearest(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest

        @pytest.mark.taskservice(backend="celry")
        def test_it(task_service): ...
        """
    )

    result = downstream.run()

    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED)
    output = result.stdout.str() + result.stderr.str()
    assert "test_shopx.py::test_it: unknown backend 'celry'; did you mean 'celery'?" in output
    assert downstream.code_shown(result) == []


def test_the_task_service_awaits_in_an_async_test_and_blocks_in_any_other(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from shopx.tasks import add, boom, flaky

        @pytest.mark.anyio
        async def test_async(task_service):
            _, result = await task_service.launch_and_await_task(add, 2, 3)
            assert result == 5
            _, result = await task_service.launch_and_await_task(flaky, 2)
            assert result == 2

        def test_sync(task_service):
            assert task_service.launch_and_await_task(add, 2, 3)[1] == 5
            with pytest.raises(ValueError, match="kettle"):
                task_service.launch_and_await_task(boom)
        """
    )

    result = downstream.run("--taskservice-backend=all", "-v", "-p", "anyio")

    # Four worlds on two loops, and five worlds.
    result.assert_outcomes(passed=8 + 5)
    result.stdout.fnmatch_lines_random(
        [
            f"*::test_async*{world}*{loop}* PASSED*"
            for world in ("celery", "celery-sim", "anyio")
            for loop in ("asyncio", "trio")
        ]
    )


def test_an_async_test_without_a_loop_is_told_to_ask_for_one(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        async def test_it(task_service):
            await task_service.launch_task(print)
        """
    )

    result = downstream.run("--taskservice-backend=anyio")

    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines("*task_service in an async test needs AnyIO's pytest plugin: mark*")
    assert downstream.code_shown(result) == []


def test_a_world_that_cannot_show_what_a_test_asks_for_skips_it_with_the_reason(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        import contextlib
        import pytest
        from shopx.celery import app
        from shopx.tasks import add, nap

        @pytest.mark.taskservice(backend="anyio")
        def test_delay(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5

        @pytest.mark.taskservice(backend="celery-eager")
        def test_countdown_is_swallowed(taskservice_app):
            with contextlib.suppress(Exception):
                add.apply_async((2, 3), countdown=60)

        @pytest.mark.taskservice(backend="celery-eager")
        def test_limit_in_a_failing_test(taskservice_app):
            with contextlib.suppress(Exception):
                nap.apply_async((0,), time_limit=1)
            raise AssertionError("hidden by the skip")

        @pytest.mark.taskservice(backend="celery-eager")
        def test_by_name(taskservice_app):
            app.send_task("shopx.tasks.add", (2, 3)).get(timeout=5)

        @pytest.mark.taskservice(backend="celery-eager")
        def test_revoked_after_it_has_ended(taskservice_app):
            assert add.delay(2, 3).revoke() is None

        @pytest.mark.taskservice(backend="celery-eager")
        def test_nobody_answers(taskservice_app):
            assert not app.control.inspect().registered()

        @pytest.mark.taskservice(backend="celery-eager")
        def test_what_it_can(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
        """
    )

    result = downstream.run("-rs", "--taskservice-backend=celery-eager,anyio")

    result.assert_outcomes(passed=1, skipped=7)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*celery-eager cannot: revoke*",
            "SKIPPED*celery-eager cannot: remote control*there is no worker*",
            "SKIPPED*anyio cannot: celery messages*",
            "SKIPPED*celery-eager cannot: eta*",
            "SKIPPED*celery-eager cannot: time limits*",
            "SKIPPED*celery-eager cannot: celery messages*",
        ]
    )


def test_a_soft_limit_that_no_thread_can_be_given_skips_however_it_is_launched(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        from taskservice import group, task

        @task(soft_time_limit=10)
        def quick(): ...

        def test_one(task_service):
            task_service.launch_task(quick)

        def test_many(task_service):
            task_service.launch_many(quick, [()])

        def test_canvas(task_service):
            task_service.launch_canvas(group(quick.s(), quick.s()))
        """
    )

    result = downstream.run("-rs", "--taskservice-backend=anyio")

    result.assert_outcomes(skipped=3 * 2)
    result.stdout.fnmatch_lines("SKIPPED*anyio cannot: time limits*")


def test_a_test_that_forbids_waiting_does_not_forbid_it_to_the_next(downstream: Downstream) -> None:
    # So do eager tasks in several threads: Celery keeps for the process whether a task runs.
    downstream.write(
        test_shopx="""
        from celery import _state
        from shopx.tasks import add

        def test_leaves_it(taskservice_app):
            _state._set_task_join_will_block(True)

        def test_waits(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
        """
    )

    downstream.run("--taskservice-backend=celery-eager").assert_outcomes(passed=2)


ASTRAY = """
    from celery import chain, signals
    from celery.exceptions import Ignore, Reject
    from celery.result import AsyncResult
    from shopx.celery import app

    @app.task
    def reject(requeue):
        raise Reject("no", requeue=requeue)

    @app.task(bind=True)
    def ignore(self):
        self.update_state(state="PARTIAL")
        raise Ignore

    @app.task(bind=True, max_retries=1, rate_limit="1/m")
    def again(self):
        if self.request.retries == 0:
            raise self.retry(countdown=60)
        return self.request.delivery_info["routing_key"]
"""


def test_eager_mode_is_not_believed_what_it_says_of_a_rejected_or_ignored_run(downstream: Downstream) -> None:
    downstream.write(
        test_shopx=ASTRAY
        + """
    def test_delivered_again(taskservice_app):
        reject.delay(True)

    def test_state(taskservice_app):
        assert reject.delay(False).state == "REJECTED"

    def test_ignored(taskservice_app):
        assert ignore.delay().get(timeout=5) is None

    def test_chain(taskservice_app):
        chain(ignore.si(), again.si())()

    def test_nobody_looks(taskservice_app):
        reject.delay(False)

    def test_what_is_stored(taskservice_app):
        assert AsyncResult(ignore.delay().id).state == "PARTIAL"
    """
    )

    result = downstream.run("-rs", "--taskservice-backend=celery-eager")

    result.assert_outcomes(passed=2, skipped=4)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*celery-eager cannot: Reject (eager mode has no message to deliver again)",
            "SKIPPED*celery-eager cannot: Reject (eager mode says REJECTED of the run, and no worker does)",
            "SKIPPED*celery-eager cannot: Ignore (eager mode says IGNORED of the run, and no worker does)",
        ]
    )


def test_a_failing_test_is_told_what_eager_mode_did_otherwise(downstream: Downstream) -> None:
    downstream.write(
        test_shopx=ASTRAY
        + """
    def test_astray(taskservice_app):
        got = []

        @signals.task_received.connect
        def note(**_):
            got.append(1)

        assert again.apply_async(queue="slow").get(timeout=5) == "slow"
    """
    )

    result = downstream.run("--taskservice-backend=celery-eager")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*taskservice eager mode*",
            "task_received was listened to: eager mode has no worker and no message, and never sends it",
            "test_shopx.again was sent with queue 'slow': eager mode has no queues",
            "test_shopx.again has rate_limit '1/m': eager mode ran it at once",
            "test_shopx.again[[]*[]] raised Retry with countdown 60: eager mode ran it again at once",
            "test_shopx.again looked at delivery_info['routing_key']: eager mode delivers nothing",
        ],
        consecutive=True,
    )


def test_a_task_that_a_canvas_replaces_is_told_where_eager_mode_cannot_run_it(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from celery import group
        from shopx.celery import app
        from shopx.tasks import add

        @app.task
        def add_up(numbers):
            return sum(numbers)

        @app.task(bind=True)
        def spread(self):
            return self.replace(group(add.s(1, 2), add.s(3, 4)) | add_up.s())

        @app.task
        def waits():
            return add.delay(1, 2).get()

        def test_replaced(taskservice_app):
            assert spread.delay().get(timeout=10) == 10

        def test_waiting(taskservice_app):
            assert waits.delay().get(timeout=10) == 3
        """
    )

    result = downstream.run("--taskservice-backend=celery-eager")

    assert [line.partition(":")[0] for line in result.outlines if "refuses to wait" in line] == [
        "test_shopx.spread was replaced by a canvas"
    ]


def test_eager_mode_logs_nothing_of_its_own(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.tasks import add

        def test_it(taskservice_app, caplog):
            assert add.delay(1, 2).get(timeout=5) == 3
            assert caplog.records == []
        """
    )

    result = downstream.run("--taskservice-backend=celery-eager")

    result.assert_outcomes(passed=1)


def test_an_async_test_is_told_that_eager_mode_runs_tasks_in_its_loop(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import asyncio
        import pytest
        from shopx.celery import app

        async def work():
            return 1

        @app.task
        def run():
            coroutine = work()
            try:
                return asyncio.run(coroutine)
            finally:
                coroutine.close()

        @pytest.mark.anyio
        async def test_async(taskservice_app):
            run.delay().get(timeout=5)

        def test_blocking(taskservice_app):
            assert run.delay().get(timeout=5) == 2
        """
    )

    result = downstream.run("-p", "anyio", "--taskservice-backend=celery-eager", "-k", "not trio")

    result.assert_outcomes(failed=2)
    assert (
        result.stdout.str().count("test_shopx.run was sent from within an event loop: eager mode ran it") == 1
    )


def test_eager_mode_hands_over_what_could_not_be_stored_and_a_failing_test_is_told(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from shopx.celery import app

        @app.task
        def makes():
            return object()

        @app.task
        def nests():
            return type(makes.apply().result).__name__

        def test_nested(taskservice_app):
            assert nests.delay().get(timeout=5) == "object"

        def test_told(taskservice_app):
            assert makes.delay().get(timeout=5) == 1

        @pytest.mark.taskservice(config={"task_store_eager_result": True})
        def test_of_ones_own_will(taskservice_app):
            assert nests.delay().get(timeout=5) == "object"
        """
    )

    result = downstream.run("--taskservice-backend=celery-eager")

    result.assert_outcomes(passed=1, failed=2)
    told = "test_shopx.makes returned 'object', which json cannot hold: a worker would have failed it"
    result.stdout.fnmatch_lines([told, "*EncodeError*"])
