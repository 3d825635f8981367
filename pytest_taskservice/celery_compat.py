"""Celery's own pytest fixtures, in the world that the user has chosen: an opt-in pytest plugin.

Load it with ``-p pytest_taskservice.celery_compat`` or ``pytest_plugins``, or import some of its fixtures in
a ``conftest.py`` in place of those of ``celery.contrib.pytest``: the others then come along.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_taskservice.compat.fixtures import (
    COMPAT,
    celery_app,
    celery_class_tasks,
    celery_compat_world,
    celery_config,
    celery_enable_logging,
    celery_includes,
    celery_parameters,
    celery_session_app,
    celery_session_worker,
    celery_worker,
    celery_worker_parameters,
    celery_worker_pool,
    depends_on_current_app,
    use_celery_app_trap,
)
from pytest_taskservice.compat.session import CompatSession
from pytest_taskservice.compat.stand_ins import StandIns
from pytest_taskservice.fixtures import HARNESS

__all__ = [
    "celery_app",
    "celery_class_tasks",
    "celery_compat_world",
    "celery_config",
    "celery_enable_logging",
    "celery_includes",
    "celery_parameters",
    "celery_session_app",
    "celery_session_worker",
    "celery_worker",
    "celery_worker_parameters",
    "celery_worker_pool",
    "depends_on_current_app",
    "use_celery_app_trap",
]

_MARKER = "celery(**overrides): override the Celery configuration of a test's app"
_stand_ins = StandIns({name: globals()[name] for name in __all__})


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: object) -> None:
    """Before a conftest.py's fixtures are read, ours stand for those that it has from Celery."""
    _stand_ins.replace_in(plugin)


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Test modules may import Celery's fixtures too."""
    _stand_ins.replace_in_theirs()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and have the harness's own worker keep away from these tests' messages."""
    config.addinivalue_line("markers", _MARKER)
    harness = config.stash.get(HARNESS, None)
    if harness is None:
        raise pytest.UsageError("pytest_taskservice.celery_compat needs the plugin taskservice, which is off")
    harness.share()
    session = CompatSession(harness)
    config.stash[COMPAT] = session
    config.add_cleanup(session.close)
    config.add_cleanup(_stand_ins.undo)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in every chosen world that can; its name stays as it is where that is one."""
    worlds = metafunc.config.stash[COMPAT].worlds
    if len(worlds) > 1 and "celery_compat_world" in metafunc.fixturenames:
        metafunc.parametrize("celery_compat_world", worlds, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """The world is told of a test before any of its fixtures is built."""
    asks = "celery_compat_world" in getattr(item, "fixturenames", ())
    item.config.stash[COMPAT].begin_test(item.nodeid, asks=asks)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """What the test's body opens comes in the midst of it."""
    session = item.config.stash[COMPAT]
    session.running = True
    try:
        return (yield)
    finally:
        session.running = False


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """The world is told after the last of its fixtures is gone."""
    try:
        return (yield)
    finally:
        item.config.stash[COMPAT].end_test()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what Celery's fixtures stood for."""
    for world, description in config.stash[COMPAT].used.items():
        terminalreporter.write_line(f"taskservice: Celery's fixtures in the world {world}: {description}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach to a failing test what its worker knows."""
    report = yield
    if report.failed:
        texts = item.config.stash[COMPAT].report()
        report.sections += [(f"taskservice {title}", text) for title, text in texts.items() if text]
    return report
