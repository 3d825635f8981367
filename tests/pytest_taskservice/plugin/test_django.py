"""A Django project: settings in a namespace, autodiscovered tasks, and the test database in the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


@shared_task
def rename(key, name):
    from store.models import Item

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


def test_a_database_in_memory_is_explained(pytester: pytest.Pytester) -> None:
    make_project(pytester, test_database="{}")

    result = pytester.runpytest_subprocess("--taskservice-backend=celery")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["Django's test database is in this process's memory*"])
