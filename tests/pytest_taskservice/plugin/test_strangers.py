"""Projects of strangers, as they are found: a base class of their own, hooks, locks, routes, and unittest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream

pytestmark = pytest.mark.internals

TASKS = """
from celery import Task, shared_task
from celery.exceptions import Ignore, Reject

from shopx.celery import app


class Told(Task):
    abstract = True

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.told("failure", str(exc))

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        self.told("retry", str(exc))

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        self.told("after", status)

    def told(self, *words):
        from pathlib import Path

        with Path("told.txt").open("a") as file:
            file.write(" ".join(words) + ";")


@app.task(base=Told, bind=True, autoretry_for=(OSError,), retry_backoff=1, retry_jitter=False, max_retries=2)
def upload(self, failures):
    if self.request.retries < failures:
        raise OSError("disk full")
    return self.request.retries


class Multiply(Told):
    name = "multiply"

    def run(self, x, y=2):
        return x * y


multiply = app.register_task(Multiply())


@app.task(bind=True)
def introspect(self, *args, **kwargs):
    request = self.request
    return [request.id, request.root_id, request.task, request.args, request.kwargs, request.is_eager]


@app.task(bind=True)
def ignored(self):
    self.update_state(state="PAUSED", meta={"page": 3})
    raise Ignore()


@shared_task
def add(x, y):
    return x + y


@shared_task
def total(numbers):
    return sum(numbers)


@shared_task
def mail():
    return "sent"


@shared_task
def fail(text):
    raise ValueError(text)


@shared_task
def told_of(request, exc, traceback):
    Told().told("errback", str(exc))
"""

TESTS = """
import asyncio
import unittest
from pathlib import Path

import pytest
from celery import chord, group
from celery.exceptions import TimeoutError

from shopx.celery import app
from shopx.tasks import add, fail, ignored, introspect, mail, told_of, total, upload


@pytest.fixture(autouse=True)
def told(taskservice_app):
    file = Path("told.txt")
    file.write_text("")
    return file


def test_hooks_of_the_base_class(told):
    assert upload.delay(1).get(timeout=20) == 1
    assert told.read_text().startswith("retry disk full;")


def test_a_class_by_name():
    assert app.send_task("multiply", (3,), {"y": 5}).get(timeout=10) == 15


def test_introspection():
    result = introspect.apply_async((1,), {"a": 2})
    assert result.get(timeout=10) == [
        result.id, result.id, "shopx.tasks.introspect", [1], {"a": 2}, False,
    ]


def test_ignored():
    result = ignored.delay()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.5)
    assert (result.state, result.info) == ("PAUSED", {"page": 3})


def test_an_errback(told):
    result = fail.apply_async(("no",), link_error=told_of.s())
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=10)


def test_canvases():
    chords = group(chord([add.s(n, n) for n in range(3)], total.s()) for _ in range(2))
    assert chords().get(timeout=20) == [6, 6]
    assert add.chunks(zip(range(4), range(4)), 2)().get(timeout=10) == [[0, 2], [4, 6]]
    assert add.starmap([(1, 1), (2, 2)]).delay().get(timeout=10) == [2, 4]


def test_a_route():
    assert mail.delay().get(timeout=10) == "sent"


def test_asyncio_waits_in_a_thread():
    async def wait():
        return await asyncio.to_thread(add.delay(3, 4).get, timeout=10)

    assert asyncio.run(wait()) == 7


class TestOfUnittest(unittest.TestCase):
    def setUp(self):
        self.result = add.delay(1, 2)

    def test_result(self):
        self.assertEqual(self.result.get(timeout=10), 3)

    def test_failure(self):
        with self.assertRaises(ValueError):
            fail.delay("no").get(timeout=10)
"""


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_a_project_runs_unedited(downstream: Downstream, world: str) -> None:
    downstream.ini(taskservice_app="shopx.celery:app")
    downstream.write(shopx__tasks=TASKS, test_shop=TESTS)

    downstream.run(f"--taskservice-backend={world}").assert_outcomes(passed=10)


INSTRUMENTED = """
from celery import Task
from celery.app import trace

from shopx.tasks import add

SEEN = []


def instrument():
    # As the init() of an SDK does: once in a process, and nothing tells what is beneath.
    apply_async, build_tracer = Task.apply_async, trace.build_tracer

    def noted(self, *args, **options):
        SEEN.append("sent")
        return apply_async(self, *args, **options)

    def told(name, task, *args, **options):
        return build_tracer(name, task, *args, **options)

    Task.apply_async, trace.build_tracer = noted, told


def test_first():
    instrument()
    assert add.delay(1, 2).get(timeout=10) == 3
    assert SEEN == ["sent"]


def test_second():
    assert add.delay(3, 4).get(timeout=10) == 7
    assert SEEN == ["sent", "sent"]
"""


@pytest.mark.parametrize("world", ["celery", "celery-sim", "celery-eager"])
def test_what_instruments_celery_in_a_test_goes_on_after_it(downstream: Downstream, world: str) -> None:
    downstream.ini(taskservice_app="shopx.celery:app", usefixtures="taskservice_app")
    downstream.write(test_instrumented=INSTRUMENTED)

    downstream.run(f"--taskservice-backend={world}").assert_outcomes(passed=2)


FACTORY = """
from types import SimpleNamespace

import pytest

from shopx.celery import app
from shopx.tasks import add

SETTINGS = SimpleNamespace(CELERY_BROKER_URL="redis://127.0.0.1:1/0", CELERY_RESULT_BACKEND="redis://127.0.0.1:1/1")


@pytest.fixture
def client():
    # As create_app() of a web framework does.
    app.config_from_object(SETTINGS, namespace="CELERY")


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_sent(client, number):
    assert add.delay(1, number).get(timeout=5) == 1 + number


def test_the_settings_are_read(client, monkeypatch):
    monkeypatch.setattr(SETTINGS, "CELERY_TASK_DEFAULT_QUEUE", "mine", raising=False)
    assert app.conf.task_default_queue == "mine"


@pytest.fixture(scope="module", autouse=True)
def after_all():
    yield
    assert app.conf.broker_url == "redis://127.0.0.1:1/0"
    assert app.conf.result_backend == "redis://127.0.0.1:1/1"
    assert not app.conf.task_always_eager
"""


@pytest.mark.parametrize("world", ["celery", "celery-sim", "celery-eager"])
def test_an_app_that_is_configured_anew_in_each_test_stays_in_the_world(
    downstream: Downstream, world: str
) -> None:
    downstream.ini(taskservice_app="shopx.celery:app", usefixtures="taskservice_app")
    downstream.write(
        shopx__celery="""
        from celery import Celery

        app = Celery("shopx", include=["shopx.tasks"])
        """,
        test_factory=FACTORY,
    )

    downstream.run(f"--taskservice-backend={world}").assert_outcomes(passed=3)


MADE = """
import pytest
from celery import Celery


@pytest.fixture
def celery_app(request):
    app = Celery("made", broker="memory://", backend="cache+memory://")
    number = request.node.callspec.params["number"]

    @app.task(name="made.which")
    def which():
        return number

    app.which = which
    return app


@pytest.mark.parametrize("number", range(8))
def test_its_own_task_runs(celery_app, number):
    assert celery_app.which.delay().get(timeout=5) == number
"""


@pytest.mark.parametrize("world", ["celery-sim", "celery-eager"])
def test_apps_made_by_a_fixture_have_their_own_tasks_and_no_warning(
    downstream: Downstream, world: str
) -> None:
    downstream.ini(usefixtures="taskservice_app", filterwarnings="error")
    downstream.write(test_made=MADE)

    downstream.run(f"--taskservice-backend={world}").assert_outcomes(passed=8)


def test_eager_mode_raises_where_the_settings_have_it_do_so(downstream: Downstream) -> None:
    downstream.ini(taskservice_app="shopx.celery:app", usefixtures="taskservice_app")
    downstream.write(
        conftest="""
        from shopx.celery import app

        app.conf.task_always_eager = True
        app.conf.task_eager_propagates = True
        """,
        test_raised="""
        import pytest
        from shopx.tasks import boom

        def test_it():
            with pytest.raises(Exception):
                boom.delay()
        """,
    )

    downstream.run("--taskservice-backend=celery-eager").assert_outcomes(passed=1)
