"""The Redis of a run: which one it is, and what becomes of one that belongs to somebody else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.redis import RedisServer
    from tests.pytest_taskservice.plugin.conftest import Downstream

CELERY = "--taskservice-backend=celery"
NO_BINARY = shutil.which("redis-server") is None and shutil.which("valkey-server") is None


@pytest.fixture
def client(given_redis: RedisServer) -> Iterator[redis.Redis]:
    """A client of the given server."""
    with redis.Redis.from_url(given_redis.url, decode_responses=True) as client:
        yield client


@pytest.mark.parametrize(
    ("choice", "header"),
    [
        pytest.param(
            "server",
            "Redis: server (Redis|Valkey) [0-9.]+",
            marks=pytest.mark.skipif(NO_BINARY, reason="no redis-server on PATH"),
        ),
        ("embedded", "Redis: embedded Valkey [0-9.]+"),
        ("fake", "Redis: fake fakeredis [0-9.]+.*"),
    ],
    ids=["server", "embedded", "fake"],
)
def test_the_header_names_the_redis_a_worker_really_uses(
    downstream: Downstream, choice: str, header: str
) -> None:
    downstream.write(
        test_shopx="""
        from shopx.tasks import add

        def test_it(taskservice_app):
            assert add.delay(2, 3).get(timeout=5) == 5
        """
    )

    result = downstream.run(CELERY, f"--taskservice-redis={choice}")

    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines(f"taskservice: world celery · {header} · app shopx.celery:app")


def test_keys_of_others_stay_and_none_of_ours_does(
    downstream: Downstream, given_redis: RedisServer, client: redis.Redis
) -> None:
    theirs = {"celery": "not a list", "unacked": "nor a hash", "their:key": "1"}
    client.mset(theirs)
    downstream.write(
        test_shopx="""
        import pytest
        from celery import chord
        from shopx.tasks import add, boom, nap, total

        @pytest.mark.parametrize("number", range(2))
        def test_it(taskservice_app, number):
            assert add.delay(2, 3).get(timeout=5) == 5
            assert chord([add.s(1, 2), add.s(3, 4)])(total.s()).get(timeout=5) == 10
            boom.delay()
            add.apply_async((2, 3), countdown=60)
            nap.delay(60)
        """
    )

    result = downstream.run(CELERY, f"--taskservice-redis={given_redis.url}")

    result.assert_outcomes(passed=2)
    found = client.keys()
    assert dict(zip(found, client.mget(found), strict=True)) == theirs


def test_four_processes_share_one_given_server(
    downstream: Downstream, given_redis: RedisServer, client: redis.Redis
) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from shopx.tasks import add, who

        SEEN = set()

        @pytest.mark.parametrize("number", range(20))
        def test_it(taskservice_app, number):
            assert add.delay(number, 1).get(timeout=10) == number + 1
            SEEN.add(who.delay().get(timeout=10))
            # Each process is served by a worker of its own.
            assert len(SEEN) == 1
        """
    )

    result = downstream.run(
        CELERY, f"--taskservice-redis={given_redis.url}", "--taskservice-concurrency=1", "-pxdist", "-n4"
    )

    result.assert_outcomes(passed=20)
    assert client.keys() == []


@pytest.mark.parametrize("workers", [(), ("-pxdist", "-n2")], ids=["alone", "xdist"])
def test_an_unreachable_server_is_a_usage_error(downstream: Downstream, workers: tuple[str, ...]) -> None:
    downstream.write(test_shopx="def test_it(taskservice_app): ...")

    result = downstream.run(CELERY, "--taskservice-redis=redis://127.0.0.1:1/0", *workers)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("ERROR: taskservice: cannot reach redis://127.0.0.1:1/0; start it or*")
    assert downstream.code_shown(result) == []


def test_a_wrong_password_is_a_usage_error_that_does_not_show_it(
    downstream: Downstream, given_redis: RedisServer, client: redis.Redis
) -> None:
    client.config_set("requirepass", "open sesame")
    url = given_redis.url.replace("redis://", "redis://:open-barley@")
    downstream.write(test_shopx="def test_it(taskservice_app): ...")

    result = downstream.run(CELERY, f"--taskservice-redis={url}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        "ERROR: taskservice: wrong password or user for redis://:[*][*][*]@127.0.0.1:*"
    )
    assert "open-barley" not in result.stderr.str()
    assert downstream.code_shown(result) == []
