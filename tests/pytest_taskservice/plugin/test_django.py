"""A Django project: settings in a namespace, autodiscovered tasks, and the test database in the worker."""

from __future__ import annotations

import pytest

SETTINGS = """
from pathlib import Path

HOME = Path(__file__).parent.parent
SECRET_KEY = "not one"
INSTALLED_APPS = ["store"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME / "real.db",
        "TEST": {test},
    }}
}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
CELERY_BROKER_URL = "amqp://nowhere.invalid"
CELERY_RESULT_BACKEND = "redis://nowhere.invalid/0"
CELERY_TASK_ALWAYS_EAGER = True
"""

CELERY = """
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""

MODELS = """
from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=20)
"""

TASKS = """
from celery import shared_task

from store.models import Item


@shared_task
def rename(key, name):
    return Item.objects.filter(pk=key).update(name=name)
"""

TESTS = """
import pytest

from store.tasks import rename


@pytest.mark.django_db(transaction=True)
def test_the_worker_changes_the_test_database(taskservice_app):
    from store.models import Item

    item = Item.objects.create(name="chair")

    assert rename.delay(item.pk, "lamp").get(timeout=10) == 1
    item.refresh_from_db()
    assert item.name == "lamp"


def test_the_settings_are_back():
    from proj.celery import app

    assert app.conf.broker_url == "amqp://nowhere.invalid"
    assert app.conf.task_always_eager is True
"""


APART = """
from unittest import mock

import pytest
from django.core.cache import cache
from django.core.mail import send_mail

from store import tasks
from store.models import Item


@pytest.mark.django_db
def test_rows(taskservice_app):
    item = Item.objects.create(name="chair")
    assert tasks.rename.delay(item.pk, "lamp").get(timeout=10) == 1


def test_rows_are_rolled_back(transactional_db):
    assert Item.objects.count() == 0


def test_settings(settings, taskservice_app):
    settings.GREETING = "moin"
    assert tasks.greet.delay().get(timeout=10) == "moin"


def test_mocks(taskservice_app):
    with mock.patch("store.tasks.name_of", return_value="mocked"):
        assert tasks.called.delay().get(timeout=10) == "mocked"


def test_mail(mailoutbox, taskservice_app):
    tasks.write.delay().get(timeout=10)
    assert [mail.subject for mail in mailoutbox] == ["Receipt"]


def test_cache(taskservice_app):
    cache.set("key", 1)
    assert tasks.cached.delay().get(timeout=10) == 1
"""

APART_TASKS = (
    TASKS
    + """

from django.conf import settings
from django.core.cache import cache
from django.core.mail import send_mail


def name_of():
    return "real"


@shared_task
def called():
    return name_of()


@shared_task
def greet():
    return getattr(settings, "GREETING", "hello")


@shared_task
def write():
    send_mail("Receipt", "", "shop@example.org", ["ada@example.org"])


@shared_task
def cached():
    return cache.get("key")
"""
)


def make_project(pytester: pytest.Pytester, *, test_database: str) -> None:
    files = {
        "proj/__init__.py": "",
        "proj/settings.py": SETTINGS.format(test=test_database),
        "proj/celery.py": CELERY,
        "store/__init__.py": "",
        "store/models.py": MODELS,
        "store/tasks.py": TASKS,
        "test_store.py": TESTS,
        "pytest.ini": "[pytest]\ntaskservice_app = proj.celery:app\nDJANGO_SETTINGS_MODULE = proj.settings\n"
        "addopts = -p no:valkey --nomigrations\npythonpath = .\n",
    }
    for name, text in files.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_a_task_works_on_the_test_database(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database='{"NAME": HOME / "test.db"}')

    result = pytester.runpytest_subprocess("--taskservice-backend=celery,celery-eager")

    result.assert_outcomes(passed=3)


def test_a_suite_that_is_put_into_the_world_as_a_whole_leaves_the_real_database_alone(
    pytester: pytest.Pytester,
) -> None:
    make_project(pytester, test_database='{"NAME": HOME / "test.db"}')
    (pytester.path / "test_store.py").write_text(TESTS.replace("(taskservice_app)", "()"))

    result = pytester.runpytest_subprocess(
        "--taskservice-backend=celery", "-o", "usefixtures=taskservice_app", "-k", "test_database"
    )

    result.assert_outcomes(passed=1)
    assert not (pytester.path / "real.db").exists()


def test_a_database_in_memory_is_explained(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database="{}")

    result = pytester.runpytest_subprocess("--taskservice-backend=celery")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["Django's test database is in this process's memory*"])


def make_apart(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database='{"NAME": HOME / "test.db"}')
    (pytester.path / "store" / "tasks.py").write_text(APART_TASKS)
    (pytester.path / "test_store.py").write_text(APART)


def test_what_a_test_has_to_itself_is_seen_where_tasks_share_its_process(pytester: pytest.Pytester) -> None:
    make_apart(pytester)

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-sim,celery-eager")

    result.assert_outcomes(passed=11)


def test_what_another_process_does_not_see_is_named_where_a_test_fails(pytester: pytest.Pytester) -> None:
    make_apart(pytester)

    result = pytester.runpytest_subprocess("--taskservice-backend=celery")

    result.assert_outcomes(passed=1, failed=5)
    result.stdout.fnmatch_lines_random(
        [
            "store.tasks.rename was sent from inside a transaction on 'default': *celery-sim*",
            "store.tasks.greet was sent while the test overrode GREETING: *celery-sim*",
            "store.tasks.called was sent while the test had replaced store.tasks.name_of: *celery-sim*",
            "*kept mail 'Receipt' in this worker, another process*",
            "store.tasks uses Django's cache, which is a LocMemCache: *celery-sim*",
        ]
    )
    # What pytest-django replaces for every test is nobody's news.
    assert len([line for line in result.outlines if "had replaced" in line]) == 1


@pytest.mark.parametrize("world", ["celery", "celery-sim"])
def test_mail_is_kept_where_mailers_send_it_and_no_warning_is_ours(
    pytester: pytest.Pytester, world: str
) -> None:
    make_apart(pytester)
    mailers = 'MAILERS = {"default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}\n'
    with (pytester.path / "proj" / "settings.py").open("a") as settings:
        settings.write(mailers)
    with (pytester.path / "test_store.py").open("a") as tests:
        tests.write(
            "\n\ndef test_sent(taskservice_app):\n    assert tasks.write.delay().get(timeout=10) == 1\n"
        )
    (pytester.path / "store" / "tasks.py").write_text(
        APART_TASKS.replace("    send_mail", "    return send_mail")
    )

    result = pytester.runpytest_subprocess("-W", "error", f"--taskservice-backend={world}", "-k", "test_sent")

    result.assert_outcomes(passed=1, deselected=6)


HUNTS = """
import pytest

from store.models import Item
from store.tasks import rename


@pytest.mark.django_db
def test_hunt(taskservice_sim):
    item = Item.objects.create(name="chair")

    def check(sim):
        assert rename.delay(item.pk, f"lamp {sim.seed}").get() == 1
        assert sim.seed < 7

    found = taskservice_sim.find(check, seeds=9, processes=2)

    assert found.seed == 7
    item.refresh_from_db()
    assert item.name == "lamp 7"
"""


def test_processes_of_a_hunt_have_a_database_in_memory_each_to_itself(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database="{}")
    (pytester.path / "test_store.py").write_text(HUNTS)

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-sim")

    result.assert_outcomes(passed=1)


def test_a_connection_that_processes_of_a_hunt_would_share_is_refused(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database='{"NAME": HOME / "test.db"}')
    (pytester.path / "test_store.py").write_text(HUNTS)

    result = pytester.runpytest_subprocess("--taskservice-backend=celery-sim")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *Django's connection 'default' is open, which processes cannot share*"])


def test_a_worker_has_no_database_until_the_tests_own_has_been_made(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database='{"NAME": HOME / "test.db"}')
    (pytester.path / "test_store.py").write_text("""
import pytest

from store.tasks import rename


def test_without(taskservice_app):
    with pytest.raises(RuntimeError, match="this worker has no database: Django's test databases had not"):
        rename.delay(1, "lamp").get(timeout=10)
""")

    result = pytester.runpytest_subprocess("--taskservice-backend=celery")

    result.assert_outcomes(passed=1)
    assert not (pytester.path / "real.db").exists()


def test_a_session_worker_of_celerys_fixtures_has_the_test_database(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database='{"NAME": HOME / "test.db"}')
    (pytester.path / "test_store.py").write_text("""
import pytest

from store.tasks import rename


@pytest.fixture(scope="session")
def celery_session_app():
    from proj.celery import app

    app.conf.task_always_eager = False
    return app


@pytest.mark.django_db(transaction=True)
def test_it(celery_session_worker, transactional_db):
    assert rename.delay(1, "lamp").get(timeout=10) == 0
""")

    result = pytester.runpytest_subprocess(
        "--taskservice-backend=celery", "-p", "pytest_taskservice.celery_compat"
    )

    result.assert_outcomes(passed=1)
    assert not (pytester.path / "real.db").exists()


def test_a_project_without_a_database_has_a_worker(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database="{}")
    (pytester.path / "proj" / "settings.py").write_text("SECRET_KEY = 'not one'\n")
    (pytester.path / "test_store.py").write_text("""
from django.db import connections

from proj.celery import app


@app.task
def known():
    return list(connections)


def test_it(taskservice_app):
    assert known.delay().get(timeout=10) == list(connections)
""")

    result = pytester.runpytest_subprocess("--taskservice-backend=celery")

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("compat", [False, True], ids=["taskservice_app", "celery_session_worker"])
def test_a_worker_has_the_settings_that_code_has_made(pytester: pytest.Pytester, compat: bool) -> None:
    make_project(pytester, test_database='{"NAME": HOME / "test.db"}')
    (pytester.path / "proj" / "celery.py").write_text(
        """
from celery import Celery

app = Celery("proj", backend="cache+memory://")


@app.task
def asked(name):
    from django.conf import settings

    return getattr(settings, name)
"""
    )
    (pytester.path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:valkey --nomigrations\npythonpath = .\n"
    )
    (pytester.path / "conftest.py").write_text("""
from django.conf import settings

import proj.settings

told = {name: value for name, value in vars(proj.settings).items() if name.isupper()}
settings.configure(**told, GREET=lambda name: "hello " + name)


def pytest_configure():
    import django

    django.setup()
""")
    fixture = "celery_session_worker" if compat else "taskservice_app"
    (pytester.path / "test_store.py").write_text(f"""
import pytest

from proj.celery import app, asked


@pytest.fixture(scope="session")
def celery_session_app():
    return app


@pytest.mark.django_db(transaction=True)
def test_it(transactional_db, {fixture}):
    from store.models import Item
    from store.tasks import rename

    assert rename.delay(Item.objects.create(name="lamp").pk, "desk").get(timeout=10) == 1
    assert Item.objects.get().name == "desk"
    with pytest.raises(AttributeError, match=r"GREET'?: in the tests it is a function <.*cannot be told"):
        asked.delay("GREET").get(timeout=10)
    with pytest.raises(AttributeError, match=r"has no attribute 'NOTHING'$"):
        asked.delay("NOTHING").get(timeout=10)
""")

    result = pytester.runpytest_subprocess(
        "--taskservice-backend=celery",
        *(["-p", "pytest_taskservice.celery_compat"] if compat else ["--taskservice-app=proj.celery:app"]),
    )

    result.assert_outcomes(passed=1)
    assert not (pytester.path / "real.db").exists()
