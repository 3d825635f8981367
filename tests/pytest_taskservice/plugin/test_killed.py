"""Processes of a test's worker that a hard time limit kills just as they look at what they share with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream


def test_the_worker_goes_on(downstream: Downstream) -> None:
    downstream.write(
        slow="""
        import os
        import signal
        import sys
        import time

        from billiard.sharedctypes import Synchronized
        from shopx.celery import app

        WORKER = os.getpid()

        def look_slowly(self):
            with self.get_lock():
                if os.getpid() != WORKER:
                    time.sleep(0.5)
                return self.get_obj().value

        Synchronized.value = property(look_slowly, Synchronized.value.fset)

        @app.task(time_limit=0.3)
        def end_as_it_is_killed():
            told = []
            signal.signal(signal.SIGTERM, lambda *_: told.append(1))
            signal.signal(signal.SIGALRM, lambda *_: sys.exit())
            while not told:
                time.sleep(0.001)
            signal.setitimer(signal.ITIMER_REAL, 0.03)
        """,
        test_shopx="""
        import pytest
        from celery.exceptions import TimeLimitExceeded
        from shopx.tasks import add
        from slow import end_as_it_is_killed

        def test_limit(taskservice_app):
            with pytest.raises(TimeLimitExceeded):
                end_as_it_is_killed.delay().get(timeout=10)
            assert add.delay(1, 2).get(timeout=10) == 3
        """,
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(passed=1)
