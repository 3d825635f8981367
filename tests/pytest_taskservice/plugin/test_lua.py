"""Lua where the package that runs it is missing: said where it is needed, and nothing else fails."""

from __future__ import annotations

import pytest

APP = """
    import redis
    from celery import Celery

    app = Celery("shop", broker="redis://localhost/0", backend="redis://localhost/0")
    client = redis.Redis()

    @app.task
    def count(name):
        return client.incr(name)

    @app.task
    def summed(numbers):
        return sum(numbers)

    @app.task
    def locked(name):
        with client.lock("shop", timeout=10) as lock:
            lock.extend(5)
            lock.reacquire()
        return client.exists("shop")

    @app.task
    def claim(name):
        return client.eval("return redis.call('INCR', KEYS[1])", 1, name)

    @app.task
    def claim_by_hash(name):
        return client.register_script("return redis.call('INCR', KEYS[1])")([name])
"""


@pytest.fixture(autouse=True)
def without_lupa(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntaskservice_app = shop:app\n")
    pytester.makepyfile(shop=APP)
    pytester.makeconftest("import sys\nsys.modules['lupa'] = None\n")


def test_the_simulator_says_what_a_script_needs_and_runs_all_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import redis
        import shop
        from celery import chord

        def test_counts(taskservice_app):
            assert shop.count.delay("sales").get() == 1

        def test_locks(taskservice_app):
            assert shop.locked.delay("sales").get() == 0

        def test_chords(taskservice_app):
            assert chord([shop.count.si(name) for name in "ab"])(shop.summed.s()).get() == 2

        @pytest.mark.parametrize("task", [shop.claim, shop.claim_by_hash])
        def test_scripts(taskservice_app, task):
            with pytest.raises(redis.ResponseError, match="pip install lupa"):
                task.delay("sales").get()
        """
    )

    outcome = pytester.runpytest_subprocess("--taskservice-backend=celery-sim")

    outcome.assert_outcomes(passed=5)


def test_a_real_worker_on_the_fake_server_is_refused_with_what_to_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_counts(taskservice_app): pass")

    outcome = pytester.runpytest_subprocess("--taskservice-backend=celery", "--taskservice-redis=fake")

    assert outcome.ret != 0
    outcome.stderr.fnmatch_lines(["*pip install lupa*or use --taskservice-redis=embedded*"])
