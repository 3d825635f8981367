"""Tasks that no module holds, made anew in another app as a worker process does."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import pytest
from celery import Celery, Task

from pytest_taskservice.drivers.carried import carry, class_places, define, tasks_to_carry
from pytest_taskservice.drivers.portable import UnportableError

NUMBER = 7


# Celery's class takes no parameters before 5.7.
_Task: Any = Task


class Loud(_Task):  # type: ignore[misc] # as above
    """A base class that a module holds."""


class Size(StrEnum):
    """What JSON would say as a text."""

    SMALL = "small"


class Point(NamedTuple):
    """What JSON would say as a list."""

    x: int
    size: Size


class Registry(dict[str, int]):
    """A dictionary with more to it than its items."""


class Counted(_Task):  # type: ignore[misc] # as above
    """A class-based task."""

    name = "counted"


def crossed(app: Celery) -> Celery:
    """Return a second app that knows of the tasks of ``app`` only what it was told."""
    app.finalize()
    other = Celery("other", set_as_current=False)
    # Shared tasks of other tests are in every app, and need not be importable here.
    told = [carry(app, task) for task in tasks_to_carry(app) if task.__module__ == __name__]
    define(other, json.loads(json.dumps(told)))
    return other


@pytest.fixture
def app() -> Celery:
    return Celery("mine", set_as_current=False)


def test_a_function_keeps_its_defaults_its_variables_and_the_globals_of_its_module(app: Celery) -> None:
    factor = 3

    @app.task(name="carried.scaled", shared=False)
    def scaled(number: int, plus: int = 1, *, minus: int = 2) -> int:
        return number * factor + plus - minus + NUMBER

    assert crossed(app).tasks["carried.scaled"](10) == 36


def test_functions_and_tasks_that_it_calls_come_along(app: Celery) -> None:
    def double(number: int) -> int:
        return number * 2

    def factorial(number: int) -> int:
        return 1 if number < 2 else number * factorial(number - 1)

    @app.task(name="carried.first", shared=False)
    def first(number: int) -> Any:
        return double(number), factorial(number), second.name, app.main

    @app.task(name="carried.second", shared=False)
    def second() -> Any:
        return first.name

    other = crossed(app)

    assert other.tasks["carried.first"](4) == (8, 24, "carried.second", "other")
    assert other.tasks["carried.second"]() == "carried.first"


def test_options_come_along(app: Celery) -> None:
    @app.task(
        name="carried.bound",
        shared=False,
        bind=True,
        base=Loud,
        max_retries=9,
        autoretry_for=(KeyError,),
        acks_late=True,
    )
    def bound(self: Any) -> Any:
        return self.name, self.max_retries

    task: Any = crossed(app).tasks["carried.bound"]

    assert task() == ("carried.bound", 9)
    assert Loud in type(task).__mro__
    assert task.autoretry_for == (KeyError,)
    assert task.acks_late


def test_what_is_defined_again_replaces_what_was(app: Celery) -> None:
    def make(value: int) -> Celery:
        app = Celery("mine", set_as_current=False)

        @app.task(name="carried.same", shared=False)
        def same() -> int:
            return value

        app.finalize()
        return app

    other = crossed(make(1))
    changed = make(2)

    define(other, [carry(changed, changed.tasks["carried.same"])])

    assert other.tasks["carried.same"]() == 2


def test_the_variable_that_cannot_be_told_is_named(app: Celery) -> None:
    lock = threading.Lock()

    @app.task(name="carried.locked", shared=False)
    def locked() -> Any:
        return lock

    app.finalize()

    with pytest.raises(UnportableError, match=r"variable 'lock' of .*locked"):
        carry(app, app.tasks["carried.locked"])


def test_what_the_test_imported_in_its_own_body_is_imported_by_the_worker(app: Celery) -> None:
    from celery import current_app, current_task
    from celery.utils.log import worker_logger

    @app.task(name="carried.looks", shared=False)
    def looks() -> tuple[str, str, bool]:
        return current_task.name, worker_logger.name, bool(current_app.main)

    result = crossed(app).tasks["carried.looks"].apply()

    assert result.get() == ("carried.looks", "celery.worker", True)


def test_loggers_come_along_by_name(app: Celery) -> None:
    from celery.utils.log import get_task_logger

    own, of_tasks = logging.getLogger("carried.own"), get_task_logger("carried.of_tasks")

    @app.task(name="carried.logs", shared=False)
    def logs() -> list[str]:
        assert of_tasks.parent is not None
        return [own.name, of_tasks.name, of_tasks.parent.name]

    told = json.dumps(carry(app, app.tasks["carried.logs"]))
    of_tasks.parent = logging.root
    other = Celery("other", set_as_current=False)
    define(other, [json.loads(told)])

    assert other.tasks["carried.logs"]() == ["carried.own", "carried.of_tasks", "celery.task"]


def test_members_of_enums_and_named_tuples_come_back_as_they_were(app: Celery) -> None:
    point, ordered = Point(3, Size.SMALL), OrderedDict(a=1)

    @app.task(name="carried.pointed", shared=False)
    def pointed(size: Size = Size.SMALL) -> Any:
        return size.name, point.x, point.size is size, ordered["a"]

    assert crossed(app).tasks["carried.pointed"]() == ("SMALL", 3, True, 1)


def test_a_container_of_somebodys_own_is_no_plain_one(app: Celery) -> None:
    registry = Registry(a=1)

    @app.task(name="carried.registered", shared=False)
    def registered() -> Any:
        return registry

    app.finalize()

    with pytest.raises(UnportableError, match=r"variable 'registry' of .*registered, Registry \{'a': 1\},"):
        carry(app, app.tasks["carried.registered"])


def test_classes_are_found_where_a_module_holds_them(app: Celery) -> None:
    class Local(_Task):  # type: ignore[misc] # as above
        name = "local"

    register: Callable[[Any], Any] = app.register_task
    register(Counted())
    register(Local())

    assert class_places(app) == ([f"{__name__}:Counted"], ["local"])
