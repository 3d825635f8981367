"""A result that is waited for without a timeout, and can never come: a test ends all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import TimeoutError as WaitedError
from celery.result import AsyncResult

from pytest_taskservice.drivers.bounded import bounded_waits
from pytest_taskservice.drivers.worker_fleet import Look

if TYPE_CHECKING:
    import pytest

    from tests.pytest_taskservice.plugin.conftest import Downstream

# The worker's start is bounded by it too.
WAITS = ("--taskservice-backend=celery", "--taskservice-timeout=5")


def test_a_result_that_nothing_can_bring_is_waited_for_so_long_and_named(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from celery import group
        from celery.result import AsyncResult
        from shopx.tasks import nap

        def test_lost(taskservice_app):
            AsyncResult("lost-it").get(callback=print, on_message=print)

        def test_slow(taskservice_app):
            told, sent = [], group(nap.s(2), nap.s(6), nap.s(4)).delay()
            sent.get(callback=lambda _, seconds: told.append(seconds))
            assert sorted(told) == [2, 4, 6]
            assert sent.get() == [2, 6, 4]
        """
    )

    result = downstream.run(*WAITS)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["E*HarnessTimeoutError: waited *, for the result of lost-it, and *: they are idle. It was lost, *"]
    )


def test_the_same_holds_for_a_suite_on_celerys_own_fixtures(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from celery.result import AsyncResult
        from shopx.celery import app
        from shopx.tasks import add

        def test_another_app(celery_worker):
            app.conf.update(broker_url="memory://", result_backend="cache+memory://")
            add.delay(1, 2).get()
        """
    )

    result = downstream.run(*WAITS, "-p", "pytest_taskservice.celery_compat")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*HarnessTimeoutError: waited * They do not serve its app, shopx"])


class Idle:
    """Workers that do nothing."""

    def look(self) -> Look:
        return Look(idle=True, seen=0)

    def held(self) -> str:
        return ""

    def serve(self, app: object) -> bool:
        return True


def test_a_result_that_comes_as_a_wait_ends_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(result: Any, timeout: float | None = None) -> int:
        if timeout is not None:
            raise WaitedError
        return 5

    monkeypatch.setattr(AsyncResult, "get", get)
    monkeypatch.setattr(AsyncResult, "ready", lambda _: True)
    app = Celery(broker="memory://", backend="cache+memory://", set_as_current=False)

    with bounded_waits(Idle(), timeout=0.1):
        assert AsyncResult("just-now", app=app).get() == 5
