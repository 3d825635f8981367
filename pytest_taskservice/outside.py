"""Tests that are in no world although one was chosen: told before they run, and again where they fail.

A suite that asks for none of our fixtures goes on as it did before, which is easily taken for a verdict.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.worlds import FIXTURE

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.options import HarnessOptions

__all__ = ["beside_section", "outside_lines", "outside_section", "unnamed_section"]

_WORLDS = {FIXTURE, "celery_compat_world"}
_THEIRS = "celery.contrib.pytest"
_ALL_IN = "usefixtures = taskservice_app in the ini file, or -o usefixtures=taskservice_app, puts all in"
# What a test meets that sends tasks to a broker where nobody is: by the root of its module, and its name.
_UNREACHED = {
    ("builtins", "ConnectionError"),
    ("celery", "TimeoutError"),
    ("kombu", "OperationalError"),
    ("redis", "ConnectionError"),
}
_CELERY = {"celery", "kombu"}
_TESTING = "celery.contrib.testing.worker"
_OURS = ("celery.", "taskservice.")
_SERVED = "-p pytest_taskservice.celery_compat serves it there too"


def outside_lines(items: Sequence[pytest.Item]) -> list[str]:
    """Return, in whole lines, which of the collected tests the chosen worlds do not reach."""
    if not items:
        return []
    lines = []
    inside = [item for item in items if _WORLDS.intersection(getattr(item, "fixturenames", ()))]
    theirs = sum(map(_has_theirs, items))
    if theirs:
        lines.append(
            f"taskservice: {theirs} of these tests have Celery's own fixtures, which know no worlds: "
            "-p pytest_taskservice.celery_compat serves the same from the chosen one"
        )
    elif not inside:
        lines.append(f"taskservice: none of these tests asks for a world, so none is in one: {_ALL_IN}")
    return lines


def outside_section(item: pytest.Item, error: BaseException, options: HarnessOptions) -> str | None:
    """Return what there is to say of what fails, outside of worlds, for want of a broker or a worker."""
    if not options.explicit or not isinstance(item, pytest.Function):
        return None
    if not any(map(_is_unreached, _chain(error))):
        return None
    passed = set(_modules(error.__traceback__))
    if _TESTING in passed:
        return (
            "Celery's start_worker was asked for outside of a world, where setUpClass and fixtures of "
            f"classes and modules are: {_SERVED}"
        )
    roots = {module.partition(".")[0] for module in passed}
    if roots.isdisjoint(_CELERY) or _WORLDS.intersection(item.fixturenames):
        return None
    return (
        "this test is in no world, so its tasks went where the app's own settings say: have it ask for "
        f"taskservice_app; {_ALL_IN}"
    )


def beside_section() -> str | None:
    """Return what there is to say of a thread of Celery's own ``start_worker``: our worlds have none."""
    testing: Any = sys.modules.get(_TESTING)
    if testing is None or not any(map(_serves, threading.enumerate())):
        return None
    return (
        "Celery's start_worker has begun a worker in a thread of this process, before the test's world was "
        f"open: it is in no world, and may take messages of this one; {_SERVED}"
    )


def unnamed_section(made: Celery) -> str | None:
    """Return what there is to say of a user's app that no world has: it has ``made``, for none was named."""
    state: Any = importlib.import_module("celery._state")
    apps = [app for app in state._get_active_apps() if app is not made and _tasks(app)]  # noqa: SLF001 - there is no other way to ask for all
    # What an app has of its own it gives to all others as well.
    if not apps or _tasks(made).difference(*map(_tasks, apps)):
        return None
    from pytest_taskservice.drivers.discovery import find_app

    place = find_app(apps[0])
    name = f"{place[0].name}:{place[1]}" if place else "module:app"
    return (
        f"no app was named, so this world has a small one of ours, and {apps[0]!r} is in none: name it with "
        f"taskservice_app = {name} in the ini file, --taskservice-app={name}, or a fixture taskservice_app"
    )


def _tasks(app: Any) -> set[str]:
    # An app that may not be finalized by whoever asks for its tasks has none yet.
    names = app.tasks if app.finalized or app.autofinalize else ()
    return {name for name in names if not name.startswith(_OURS)}


def _serves(thread: threading.Thread) -> bool:
    # What the thread calls has no public name; without it nothing is told.
    worker = getattr(getattr(thread, "_target", None), "__self__", None)
    return any(kind.__module__ == _TESTING for kind in type(worker).__mro__)


def _has_theirs(item: pytest.Item) -> bool:
    known: Any = getattr(item, "_fixtureinfo", None)
    found = known.name2fixturedefs.values() if known else ()
    return any(fixtures[-1].func.__module__ == _THEIRS for fixtures in found)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_unreached(error: BaseException) -> bool:
    return any(
        (kind.__module__.partition(".")[0], kind.__name__) in _UNREACHED for kind in type(error).__mro__
    )


def _modules(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield traceback.tb_frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next
