"""Tasks that no module holds, told to a worker process: those defined inside a test or a fixture.

A worker in another process imports what it can. A function defined inside another one is carried over
instead: its code, its defaults and the variables that it closes over, as JSON. Its globals are those of its
module, which the worker imports. Code is marshalled, which only the same Python can read: the worker's is.

Leans on the attributes that ``Celery._task_from_fun`` gives a task's class.
"""

from __future__ import annotations

import base64
import builtins
import importlib
import logging
import marshal
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.portable import UnportableError, decode, encode, place_of, thing_at

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["carry", "class_places", "define", "tasks_to_carry"]

# What Celery itself puts on a task's class, beside names that begin with an underscore; the rest are options,
# those that the task was declared with and those that it took from the settings.
_CELERYS_OWN = frozenset({"app", "name", "run", "request_stack"})
_CONTAINERS = (dict, list, tuple, set, frozenset)


def tasks_to_carry(app: Celery) -> Iterator[Any]:
    """Yield the tasks of ``app`` that are made of a function which importing its module does not register."""
    for task in app.tasks.values():
        if not _is_celerys(task) and hasattr(type(task), "_decorated") and not _is_held(task):
            yield task


def class_places(app: Celery) -> tuple[list[str], list[str]]:
    """Return where the classes of class-based tasks lie, and the names of those that no module holds."""
    found, homeless = [], []
    for name, task in app.tasks.items():
        if _is_celerys(task) or hasattr(type(task), "_decorated"):
            continue
        place = place_of(type(task))
        if place is None:
            homeless.append(name)
        else:
            found.append(place)
    return found, homeless


def carry(app: Celery, task: Any) -> dict[str, Any]:
    """Return what a worker needs to have ``task`` too; :class:`UnportableError` if JSON cannot say it."""
    made = vars(type(task))
    bound = not isinstance(made["run"], staticmethod)
    function = _written(made)
    options = {
        key: value
        for key, value in made.items()
        if key not in _CELERYS_OWN and not key.startswith("_") and value is not None
    }
    if function is not (made["run"] if bound else made["run"].__func__):
        options["pydantic"] = True
    return {
        "name": task.name,
        "bind": bound,
        "base": _base(app, type(task).__bases__[0]),
        "options": encode(options, _teller(app)),
        "function": _function(function, _teller(app)),
    }


def define(app: Celery, told: Iterable[Mapping[str, Any]]) -> list[str]:
    """Register tasks that :func:`carry` told of, over any of the same names; return the names."""
    names = []
    for one in told:
        app.tasks.pop(one["name"], None)
        # Shared tasks would appear in every other app of the process.
        decorate: Any = app.task(
            name=one["name"],
            bind=one["bind"],
            base=thing_at(one["base"]) if one["base"] else None,
            shared=False,
            lazy=False,
            **decode(one["options"], _finder(app)),
        )
        decorate(decode(one["function"], _finder(app)))
        names.append(one["name"])
    return names


def _written(made: Mapping[str, Any]) -> Any:
    """Return the function as the test wrote it, without what Celery may wrap around it for pydantic."""
    if "_decorated_fun" in made:
        return made["_decorated_fun"].__func__
    # Celery before 5.7 keeps only what it runs.
    run = getattr(made["run"], "__func__", made["run"])
    return run.__wrapped__ if run.__globals__["__name__"] == "celery.app.base" else run


def _is_celerys(task: Any) -> bool:
    # By module: an app of Celery's own fixtures gives its name, celery.tests, to tasks of a script.
    return str(task.__module__).startswith("celery.")


def _is_held(task: Any) -> bool:
    """Say whether a module holds the task, and so registers it when it is imported."""
    found: Any = sys.modules.get(task.__module__)
    for part in str(getattr(task, "__qualname__", task.__name__)).split("."):
        found = getattr(found, part, None)
    return found is not None and getattr(found, "name", None) == task.name


def _base(app: Celery, base: Any) -> str | None:
    if base is app.Task:
        return None
    place = place_of(base)
    if place is None:
        raise UnportableError(f"base class {base.__qualname__}, which no module holds,")
    return place


def _function(function: Any, tell: Any) -> dict[str, Any]:
    if place := place_of(function):
        return {"!place": place}
    if not isinstance(function, types.FunctionType):
        raise UnportableError(f"{type(function).__name__} {function!r:.80}")
    code = function.__code__
    names = zip(code.co_freevars, function.__closure__ or (), strict=True)
    return {
        "!function": {
            "code": base64.b64encode(marshal.dumps(code)).decode(),
            "module": function.__module__,
            "qualname": function.__qualname__,
            "defaults": encode(function.__defaults__, tell),
            "kwdefaults": encode(function.__kwdefaults__, tell),
            "cells": [_cell(function, name, cell, tell) for name, cell in names],
        }
    }


def _cell(function: Any, name: str, cell: Any, tell: Any) -> Any:
    try:
        value = cell.cell_contents
    except ValueError:
        return {"!empty": None}
    if value is function:
        return {"!itself": None}
    try:
        return encode(value, tell)
    except UnportableError as error:
        # A name that a test imports in its own body is closed over; at its module's head it is a global.
        if place := _imported_from(name, value):
            return {"!place": place}
        raise UnportableError(f"variable {name!r} of {function.__qualname__}, {error.what},") from None


def _imported_from(name: str, value: Any) -> str | None:
    """Return where a module holds ``value`` under ``name``, as ``from module import name`` finds it."""
    for module, held in sorted(sys.modules.items()):
        if not isinstance(held, types.ModuleType) or module == "__main__":
            continue
        # Without a spec a module was made by hand, and no other process can import it.
        if vars(held).get("__spec__") and vars(held).get(name) is value:
            return f"{module}:{name}"
    return None


def _teller(app: Celery) -> Any:
    from celery import Celery, Task
    from celery.local import Proxy

    def tell(value: Any) -> dict[str, Any] | None:
        # current_app and current_task pass for what they stand for, which in a worker is another thing.
        if type(value) is Proxy:
            raise UnportableError(f"proxy {value!r:.80}")
        if isinstance(value, Celery):
            if value is not app:
                raise UnportableError(f"app {value.main!r}, which is not the worker's,")
            return {"!app": None}
        if isinstance(value, Task):
            return {"!task": value.name}
        if isinstance(value, types.FunctionType):
            return _function(value, tell)
        if isinstance(value, Enum | logging.Logger):
            return _named(value)
        if isinstance(value, _CONTAINERS) and type(value) not in (*_CONTAINERS, OrderedDict):
            return _own_container(value, tell)
        return None

    return tell


def _own_container(value: Any, tell: Any) -> dict[str, Any]:
    """Tell a named tuple; of what else is made of a container, its items are not all that it is."""
    kind = type(value)
    place = place_of(kind)
    if place is None or not hasattr(kind, "_make"):
        raise UnportableError(f"{kind.__name__} {value!r:.80}")
    return {"!named": [place, [encode(item, tell) for item in value]]}


def _named(value: Enum | logging.Logger) -> dict[str, Any] | None:
    """Tell a member of an enum or a logger, which are found again by their names."""
    if isinstance(value, Enum):
        place = place_of(type(value))
        return {"!member": [place, value.name]} if place else None
    from celery.utils.log import task_logger

    if logging.getLogger(value.name) is not value:
        return None
    # get_task_logger puts a logger below Celery's own, which the worker has to do again.
    return {"!task_logger" if value.parent is task_logger else "!logger": value.name}


def _task_logger(name: str) -> logging.Logger:
    from celery.utils.log import get_task_logger

    logger: logging.Logger = get_task_logger(name)
    return logger


_NAMED: dict[str, Callable[[Any], Any]] = {
    "!member": lambda told: thing_at(told[0])[told[1]],
    "!logger": logging.getLogger,
    "!task_logger": _task_logger,
}


def _finder(app: Celery) -> Any:
    from celery.local import Proxy

    def find(kind: str, told: Any) -> Any:
        if kind == "!app":
            return app
        if kind == "!task":
            # Two tasks may call each other; the second is not there yet.
            return Proxy(lambda: app.tasks[told])
        if kind in _NAMED:
            return _NAMED[kind](told)
        if kind == "!named":
            return thing_at(told[0])._make(decode(told[1], find))
        assert kind == "!function", kind
        return _rebuild(told, find)

    return find


def _rebuild(told: Mapping[str, Any], find: Any) -> Any:
    code = marshal.loads(base64.b64decode(told["code"]))  # noqa: S302 - made by our own parent process
    names = vars(importlib.import_module(told["module"]))
    # What pytest's rewriting of asserts refers to; the worker's own import is not rewritten.
    names.setdefault("@py_builtins", builtins)
    if "@pytest_ar" not in names:
        names["@pytest_ar"] = importlib.import_module("_pytest.assertion.rewrite")
    cells = [types.CellType() for _ in told["cells"]]
    function = types.FunctionType(
        code, names, code.co_name, decode(told["defaults"], find), tuple(cells) or None
    )
    function.__kwdefaults__ = decode(told["kwdefaults"], find)
    function.__module__, function.__qualname__ = told["module"], told["qualname"]
    for cell, value in zip(cells, told["cells"], strict=True):
        if value == {"!itself": None}:
            cell.cell_contents = function
        elif value != {"!empty": None}:
            cell.cell_contents = decode(value, find)
    return function
