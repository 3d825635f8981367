"""The fixtures: thin, each one thing of the session's, lent to one test."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.errors import HarnessError, UnknownNameError
from pytest_taskservice.session import HarnessSession, check_app, check_settings
from pytest_taskservice.worlds import ONLY_OURS, split_world, unseeded

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.clock import Clock
    from pytest_taskservice.drivers.base import Driver, WorldDriver
    from pytest_taskservice.hunting.face import CelerySim
    from pytest_taskservice.redis import RedisServer
    from taskservice import BlockingTaskService, TaskService

__all__ = [
    "ADDRESSES",
    "APP",
    "ENTER",
    "HARNESS",
    "NO_RESULTS",
    "WORLD",
    "app_of",
    "has_own_app",
    "open_world",
    "task_service",
    "taskservice_app",
    "taskservice_backend",
    "taskservice_clock",
    "taskservice_driver",
    "taskservice_redis",
    "taskservice_sim",
]

HARNESS = pytest.StashKey[HarnessSession]()
ADDRESSES = ("broker_url", "result_backend")
"""Settings that are a world's to say: where messages and results go."""
_CLOCKS = ("virtual", "real")
_DATABASES = ("_django_db_helper", "_django_db_marker")
"""What all of pytest-django's fixtures of a database come to, and its marker."""
_COMPAT = "pytest_taskservice.compat."
WORLD: pytest.StashKey[WorldDriver] = pytest.StashKey()
APP: pytest.StashKey[Celery | None] = pytest.StashKey()
NO_RESULTS: pytest.StashKey[bool] = pytest.StashKey()
"""Whether the settings of a test's app, its own or the test's, name no result backend."""
ENTER: pytest.StashKey[Callable[[pytest.FixtureRequest], None]] = pytest.StashKey()
"""How an item that is no test function enters its ``world``."""


@pytest.fixture
def taskservice_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the world the test runs in; asking for it makes the test run in every chosen one."""
    harness = request.config.stash[HARNESS]
    # A worker is told the names of test databases, and fixtures that an ini file names come first of all.
    for name in _DATABASES:
        if name in request.fixturenames:
            request.getfixturevalue(name)
    enter = request.node.stash.get(ENTER, None)
    # What takes no parameters has its world itself, if there is any choice.
    own = getattr(request.node, "world", harness.options.backends[0])
    world = getattr(request, "param", own)
    if not enter and harness.theirs.serves() and ONLY_OURS.isdisjoint(request.fixturenames):
        # By Celery's own fixtures, whose world has what they open already.
        yield split_world(world, harness.options)[0]
        return
    driver, problem = None, ""
    try:
        driver = harness.driver(world)
        harness.theirs.give_way()
        if enter:
            enter(request)
        else:
            open_world(request, world)
    except HarnessError as error:
        problem = str(error)
    try:
        if driver is None or problem:
            # Outside of the handler: a mistake of the user's is told without a traceback of ours.
            pytest.fail(f"taskservice: {problem}", pytrace=False)
        yield driver.name
    finally:
        if driver is not None:
            driver.reset()


@pytest.fixture
def taskservice_driver(request: pytest.FixtureRequest, taskservice_backend: str) -> Driver:
    """Control over the world: launch by name, settle, read the history."""
    driver: Driver = request.node.stash[WORLD]
    return driver


@pytest.fixture
def taskservice_clock(request: pytest.FixtureRequest, taskservice_backend: str) -> Clock:
    """The world's clock: ``now()``, ``advance(hours=24)``, ``run_until_idle()``, ``await sleep(hours=1)``."""
    driver = request.node.stash[WORLD]
    clock, problem = None, ""
    try:
        clock = driver.clock()
    except HarnessError as error:
        problem = str(error)
    # Outside of the handler: neither a skip nor a mistake of the user's is told with a traceback of ours.
    if driver.refused:
        pytest.skip(problem)
    if clock is None:
        pytest.fail(f"taskservice: {problem}", pytrace=False)
    found: Clock = clock
    return found


@pytest.fixture
def taskservice_app(request: pytest.FixtureRequest, taskservice_backend: str) -> Celery:
    """Your Celery app, in this world. Override it to name the app by a fixture instead of the ini file."""
    app = app_of(request)
    assert app is not None
    return app


@pytest.fixture
def taskservice_sim(request: pytest.FixtureRequest, taskservice_backend: str) -> CelerySim:
    """The simulation the test runs in: seed, history, workers, beat, time, faults, and ``find`` for races."""
    from pytest_taskservice.drivers.base import CapabilityError

    driver: Any = request.node.stash[WORLD]
    if driver.name != "celery-sim":
        reason = "only celery-sim draws all that happens from a seed"
        pytest.skip(str(CapabilityError(taskservice_backend, "a simulation", reason)))
    from pytest_taskservice.hunting.face import CelerySim

    return CelerySim(driver)


@pytest.fixture
def taskservice_redis(request: pytest.FixtureRequest) -> RedisServer:
    """The session's Redis: ``url``, ``version``, and ``owned`` (started by us, so it may be flushed)."""
    return request.config.stash[HARNESS].redis()


@pytest.fixture
def task_service(
    request: pytest.FixtureRequest, taskservice_backend: str
) -> TaskService | BlockingTaskService:
    """A ``TaskService`` over this world: async in an async test, blocking in any other."""
    name = "_taskservice_blocking"
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        if "anyio_backend" not in request.fixturenames:
            pytest.fail(
                "task_service in an async test needs AnyIO's pytest plugin: mark the test with "
                "@pytest.mark.anyio, or set anyio_mode = auto",
                pytrace=False,
            )
        name = "_taskservice_async"
    return request.getfixturevalue(name)  # type: ignore[no-any-return] # by name, so untyped


@pytest.fixture
async def _taskservice_async(
    request: pytest.FixtureRequest, taskservice_backend: str
) -> AsyncIterator[TaskService]:
    from taskservice import TaskService

    async with TaskService(request.node.stash[WORLD].task_backend()) as service:
        yield service


@pytest.fixture
def _taskservice_blocking(
    request: pytest.FixtureRequest, taskservice_backend: str
) -> Iterator[BlockingTaskService]:
    with request.node.stash[WORLD].blocking_service() as service:
        yield service


def open_world(request: pytest.FixtureRequest, world: str, *, needs_app: bool = False) -> Celery | None:
    """Put the test of ``request`` into ``world``; return the app that was pointed at it.

    In-process tasks do without an app unless the user names one, or ``needs_app``.
    """
    driver = request.config.stash[HARNESS].driver(world)
    wanted = needs_app or not world.startswith("anyio") or _names_app(request)
    app = app_of(request) if wanted else None
    settings = _settings_of(request)
    request.node.stash[WORLD], request.node.stash[APP] = driver, app
    request.node.stash[NO_RESULTS] = app is not None and not _stores_results(app, settings, request)
    settings = {key: value for key, value in settings.items() if key not in ADDRESSES}
    # A world that has no network of its own is told which real one a test may use.
    if hasattr(driver, "allow_sockets"):
        driver.allow_sockets = _allowed_sockets(request)
    # What a test leaves in the process under a name of its own must not be found by the next one.
    if hasattr(driver, "place"):
        driver.place = request.node.nodeid.replace(world, unseeded(world))
    driver.begin(
        app,
        check_settings(settings),
        real_time=_wants_real_time(request),
        loops="anyio_backend" in request.fixturenames,
    )
    return app


def has_own_app(node: pytest.Collector | pytest.Item) -> bool:
    """Return whether ``taskservice_app`` is a fixture of the user's own where ``node`` is."""
    found = _definitions(node, "taskservice_app")
    return bool(found) and found[-1].func.__module__ != __name__


def app_of(request: pytest.FixtureRequest) -> Celery:
    """Return the app of the test of ``request``, wherever the user names it."""
    harness = request.config.stash[HARNESS]
    if has_own_app(request.node):
        value = request.getfixturevalue("taskservice_app")
        return check_app(value, "the fixture taskservice_app")
    if harness.theirs.serves():
        for name in ("celery_app", "celery_session_app"):
            if name in request.fixturenames:
                return check_app(request.getfixturevalue(name), f"the fixture {name}")
    if harness.options.app is None and _names_celery_app(request):
        return check_app(request.getfixturevalue("celery_app"), "the fixture celery_app")
    return harness.app()


def _names_app(request: pytest.FixtureRequest) -> bool:
    return (
        request.config.stash[HARNESS].options.app is not None
        or has_own_app(request.node)
        or _names_celery_app(request)
        or "taskservice_app" in request.fixturenames
    )


def _settings_of(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Return the settings of the user's ``celery_config`` and of the markers, the nearest last."""
    settings: dict[str, Any] = {}
    if _has_fixture(request, "celery_config"):
        settings |= request.getfixturevalue("celery_config")
    for marker in reversed(list(request.node.iter_markers("taskservice"))):
        settings |= marker.kwargs.get("config", {})
    return settings


def _stores_results(app: Celery, settings: Mapping[str, Any], request: pytest.FixtureRequest) -> bool:
    """Return whether ``app`` has a result backend without us; an app that we made has nothing to tell."""
    if app is request.config.stash[HARNESS].made_app():
        return True
    theirs: Any = app
    named = settings.get("result_backend") or theirs.backend_cls or theirs.conf.result_backend
    return bool(named) and named != "disabled"


def _allowed_sockets(request: pytest.FixtureRequest) -> bool | tuple[str, ...]:
    """Return what the nearest marker, or else the option, allows to be connected to."""
    for marker in request.node.iter_markers("taskservice"):
        if "allow_sockets" in marker.kwargs:
            choice = marker.kwargs["allow_sockets"]
            if isinstance(choice, bool):
                return choice
            return (choice,) if isinstance(choice, str) else tuple(map(str, choice))
    return request.config.stash[HARNESS].options.allow_sockets


def _wants_real_time(request: pytest.FixtureRequest) -> bool:
    """Return what the nearest marker says of the clock."""
    for marker in request.node.iter_markers("taskservice"):
        if "clock" in marker.kwargs:
            choice = marker.kwargs["clock"]
            if choice not in _CLOCKS:
                raise UnknownNameError("clock", str(choice), _CLOCKS)
            return bool(choice == "real")
    return False


def _names_celery_app(request: pytest.FixtureRequest) -> bool:
    """Return whether a fixture ``celery_app`` says what the app is: celery_compat's own does if asked for."""
    found = _definitions(request.node, "celery_app")
    if not found:
        return False
    return "celery_app" in request.fixturenames or not found[-1].func.__module__.startswith(_COMPAT)


def _has_fixture(request: pytest.FixtureRequest, name: str) -> bool:
    return bool(_definitions(request.node, name))


def _definitions(node: Any, name: str) -> Sequence[Any]:
    manager = node.session._fixturemanager  # noqa: SLF001 - pytest has no public way to ask
    return manager.getfixturedefs(name, node) or ()
