"""What a test has to itself, and a worker in another process does not see: told where the test fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

GATEWAY = """
class Gateway:
    def charge(self):
        raise OSError

own = Gateway()

def ping():
    raise OSError
"""
TESTS = """
import os
from unittest import mock

import pytest
from celery.signals import task_failure, task_received

from shopx import gateway
from shopx.tasks import add

@pytest.fixture(autouse=True)
def app(taskservice_app):
    return taskservice_app

def send():
    assert add.delay(1, 2).get(timeout=10) == 3

@mock.patch("shopx.gateway.ping", autospec=True)
def test_decorated(ping):
    send()
    assert os is None

def test_in_a_block():
    with mock.patch.object(gateway.Gateway, "charge"), mock.patch("shopx.gateway.own.charge"):
        with mock.patch.dict(os.environ, SHOPX_MODE="test"):
            send()
    assert os is None

def test_monkeypatched(monkeypatch):
    monkeypatch.setattr("shopx.gateway.ping", lambda: "pong")
    monkeypatch.setenv("SHOPX_LEVEL", "high")
    send()
    assert os is None

def test_listening():
    task_failure.connect(lambda **_: None, weak=False)
    send()
    assert os is None

def test_nothing_of_it():
    with mock.patch("shopx.gateway.ping"):
        pass
    send()
    assert os is None
"""
SHARED = """
from celery import shared_task

@shared_task
def add(x, y):
    return x + y
"""
REPLACED = "shopx.tasks.add was sent while the test had replaced "


def test_what_a_test_replaces_and_listens_to_is_told_where_it_fails(downstream: Downstream) -> None:
    downstream.write(shopx__gateway=GATEWAY, test_shopx=TESTS)

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(failed=5)
    told = [line for line in result.outlines if line.startswith((REPLACED, "task_"))]
    assert [line.removeprefix(REPLACED).partition(":")[0] for line in told] == [
        "shopx.gateway.ping",
        "shopx.gateway.Gateway.charge",
        "charge of a shopx.gateway.Gateway",
        "the environment's SHOPX_MODE",
        "shopx.gateway.ping",
        "the environment's SHOPX_LEVEL",
        "task_failure was listened to",
    ]


def test_settings_that_a_test_changes_are_told_where_it_fails(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from shopx.celery import app
        from shopx.tasks import add

        def test_in_the_test(taskservice_app):
            app.conf.task_soft_time_limit = 1
            app.conf.update(task_acks_late=True)
            assert add.delay(1, 2).get(timeout=10) == 4

        @pytest.mark.taskservice(config={"task_acks_late": True})
        def test_by_the_mark(taskservice_app):
            assert add.delay(1, 2).get(timeout=10) == 4
        """
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(failed=2)
    told = [line for line in result.outlines if "after the test had set" in line]
    assert [line.partition(":")[0] for line in told] == [
        "shopx.tasks.add was sent after the test had set task_acks_late, task_soft_time_limit"
    ]


def test_what_a_test_sets_on_its_app_is_told_where_it_fails(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        import pytest
        from celery import Celery
        from shopx import celery

        @pytest.fixture
        def taskservice_app(request):
            if request.node.name.startswith("test_held"):
                return celery.app
            app = Celery("made")
            app.registry = {"a": 1}
            return app

        def send(app):
            @app.task(bind=True, name="look", shared=False)
            def look(self):
                return hasattr(self.app, "registry")

            app.price_list = []
            assert look.delay().get(timeout=10)

        def test_made(taskservice_app):
            send(taskservice_app)

        def test_held(taskservice_app):
            send(taskservice_app)
        """
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(failed=2)
    told = [line for line in result.outlines if "which no module holds" in line]
    assert [line.partition(":")[0] for line in told] == [
        "look was sent while its app, which no module holds, had registry, price_list"
    ]


def test_who_captures_what_a_task_says_is_told_where_it_is_said(downstream: Downstream) -> None:
    downstream.write(
        test_shopx="""
        from shopx.celery import app
        from shopx.tasks import add

        @app.task
        def say():
            print("said")

        def test_said(taskservice_app, capsys):
            say.delay().get(timeout=10)
            assert "said" in capsys.readouterr().out

        def test_nothing_sent(taskservice_app, caplog):
            assert "said" in caplog.text

        def test_nothing_captured(taskservice_app):
            assert add.delay(1, 2).get(timeout=10) == 4
        """
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(failed=3)
    told = [line.partition(":")[0] for line in result.outlines if "what tasks log and print" in line]
    assert told == ["capsys"]


def test_a_moved_clock_is_told_to_a_suite_on_celerys_own_fixtures(downstream: Downstream) -> None:
    downstream.write(
        test_shopx=f"""
import pytest
import time_machine
from freezegun import freeze_time
{SHARED}

@pytest.mark.parametrize("move", [freeze_time, time_machine.travel])
def test_it(celery_worker, move):
    with move("2020-01-01", tick=True):
        assert add.delay(1, 2).get(timeout=10) == 4
"""
    )

    result = downstream.run("-p", "pytest_taskservice.celery_compat", "--taskservice-backend=celery")

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "test_shopx.add was *had moved the clock with freezegun:*",
            "test_shopx.add was *with time-machine:*",
        ]
    )


def test_the_same_is_told_to_a_suite_on_celerys_own_fixtures(downstream: Downstream) -> None:
    tests = TESTS.replace("def app(taskservice_app):", "def app(celery_worker):").replace(
        "return taskservice_app", "return celery_worker"
    )
    downstream.write(
        shopx__gateway=GATEWAY,
        test_shopx=tests.replace("from shopx.tasks import add", "").replace(
            "def send():", f"{SHARED}\ndef send():"
        ),
    )

    result = downstream.run("--taskservice-backend=celery", "-p", "pytest_taskservice.celery_compat")

    result.assert_outcomes(failed=5)
    replaced = [line for line in result.outlines if "the test had replaced" in line]
    listened = [line for line in result.outlines if "was listened to" in line]
    assert (len(replaced), len(listened)) == (6, 1)


def test_what_a_task_changes_for_its_worker_alone_is_told_where_it_is_missed(
    downstream: Downstream,
) -> None:
    downstream.write(
        test_shopx="""
        from shopx.celery import app
        from shopx.tasks import add

        calls = []

        @app.task
        def note(name):
            calls.append(name)

        def test_noted(taskservice_app):
            note.delay("first").get(timeout=10)
            assert calls == ["first"]

        def test_nothing_noted(taskservice_app):
            assert add.delay(1, 2).get(timeout=10) == 4
        """
    )

    result = downstream.run("--taskservice-backend=celery")

    result.assert_outcomes(failed=2)
    assert [line.partition(":")[0] for line in result.outlines if " changes " in line] == [
        "test_shopx.note changes test_shopx.calls"
    ]
