"""Celery's fixtures, with their names, scopes and meanings, in the world that the user has chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.compat.session import CompatSession
from pytest_taskservice.drivers.databases import find_databases
from pytest_taskservice.errors import HarnessError
from pytest_taskservice.made_databases import MAKES_DATABASES
from pytest_taskservice.worlds import ONLY_OURS

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.compat.base import CompatWorker, CompatWorld

__all__ = [
    "COMPAT",
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

COMPAT = pytest.StashKey[CompatSession]()


@pytest.fixture(scope="session")
def celery_compat_world(request: pytest.FixtureRequest) -> Iterator[CompatWorld]:
    """The world that Celery's fixtures are in; where several are chosen, tests run once in each."""
    session = request.config.stash[COMPAT]
    refusal = session.refusal()
    if refusal is not None:
        pytest.skip(refusal)
    yield session.world(getattr(request, "param", None))
    session.leave()


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Override it to have an error raised whenever something uses the current or default app."""
    return False


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Override it to have Celery set up logging for the app."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Override it to name modules that a worker imports when it starts."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> Any:
    """Override it to choose the worker's pool, such as ``"prefork"``; ``"solo"`` by default."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Override it to configure the test apps. Where messages and results go is the world's to say."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Override it to change what the test apps are made with: the parameters of ``Celery()``."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Override it to change what workers are made with: the parameters of Celery's ``WorkController``."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Override it to register class-based tasks with the session's app."""
    return []


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_compat_world: CompatWorld,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for the whole session, current and default unless the app trap is set."""
    with _app(request, celery_config, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    request: pytest.FixtureRequest,
    celery_session_app: Celery,
    celery_compat_world: CompatWorld,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[CompatWorker | None]:
    """A worker of ``celery_session_app`` that lives as long as the session."""
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with _worker(request, celery_session_app, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_compat_world: CompatWorld,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for one test. No worker serves it unless the test has one."""
    with _app(request, celery_config, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        yield app


@pytest.fixture
def celery_worker(
    request: pytest.FixtureRequest,
    celery_app: Celery,
    celery_compat_world: CompatWorld,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[CompatWorker | None]:
    """A worker of ``celery_app`` for one test; ``reload()`` shows it tasks that were defined since."""
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with _worker(request, celery_app, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """Make ``celery_app`` the current app."""
    celery_app.set_current()


@contextmanager
def _app(
    request: pytest.FixtureRequest,
    config: Mapping[str, Any],
    parameters: Mapping[str, Any],
    enable_logging: bool,
    use_trap: bool,
) -> Iterator[Celery]:
    from celery.contrib.testing.app import TestApp, setup_default_app

    mark = request.node.get_closest_marker("celery")
    app = TestApp(
        set_as_current=False,
        enable_logging=enable_logging,
        config={**config, **(mark.kwargs if mark else {})},
        **parameters,
    )
    with setup_default_app(app, use_trap=use_trap), _told(request.config.stash[COMPAT].opened(app)):
        yield app


@contextmanager
def _worker(
    request: pytest.FixtureRequest, app: Celery, pool: Any, parameters: Mapping[str, Any]
) -> Iterator[CompatWorker | None]:
    if not ONLY_OURS.isdisjoint(request.fixturenames):
        pytest.fail(
            "taskservice: this test asks for a worker of its own and for the harness's, which would serve "
            "the same app: leave out celery_worker and celery_session_worker, or the fixtures of taskservice",
            pytrace=False,
        )
    if os.environ.get("NO_WORKER"):
        yield None
        return

    from celery.contrib.testing import worker as testing

    # In the simulator a worker sees them whenever they are made; one in another process is told their names.
    apart = request.getfixturevalue("celery_compat_world").name == "celery"
    if apart and request.config.pluginmanager.has_plugin("django") and find_databases():
        request.getfixturevalue(MAKES_DATABASES)
    start_worker: Any = testing.start_worker
    with _told(start_worker(app, pool=pool, **parameters)) as worker:
        yield worker


@contextmanager
def _told(entered: AbstractContextManager[Any]) -> Iterator[Any]:
    """Enter a context; a mistake of the user's is told without a traceback of ours."""
    stack, problem, value = ExitStack(), "", None
    try:
        value = stack.enter_context(entered)
    except HarnessError as error:
        problem = str(error)
    if problem:
        pytest.fail(f"taskservice: {problem}", pytrace=False)
    with stack:
        yield value
