"""The back ends under test; one Redis, and one real worker a world, for the whole session."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.fixtures import HARNESS, WORLD
from pytest_taskservice.redis import RedisRequest, acquire
from pytest_taskservice.worlds import worlds_of
from taskservice import AnyIOBackend, CeleryBackend, Settings, TaskBackend, create_app
from tests.contract.clusters import CLUSTERS, UNABLE, Clusters, require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import ModuleType

    from celery import Celery

    from pytest_taskservice.drivers.base import StoryDriver

SLOTS = 2
LOOPS = ("asyncio", "trio")
WORLDS = ("anyio", *CLUSTERS, "celery-sim", "eager")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play a contract of stories in every chosen world."""
    if "story_world" in metafunc.fixturenames:
        options = metafunc.config.stash[HARNESS].options
        worlds = [world for name in options.backends for world in worlds_of(name, options)]
        metafunc.parametrize("story_world", worlds)


@pytest.fixture
def story_driver(request: pytest.FixtureRequest, story_world: str) -> Iterator[StoryDriver]:
    """The driver of a world in which nothing has begun: a stage is set first, as scenarios do."""
    driver = request.config.stash[HARNESS].driver(story_world)
    request.node.stash[WORLD] = driver
    yield driver  # type: ignore[misc] # every world's is one
    driver.reset()


@pytest.fixture(scope="package")
def backend_redis_url() -> Iterator[str]:
    """A Redis server of our own, gone after the contracts."""
    server = acquire(RedisRequest())
    yield server.url
    server.close()


@pytest.fixture(scope="package")
def clusters(backend_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    """The workers of all worlds, each from its first use to the end of the contracts: idle, they cost too."""
    found = Clusters(backend_redis_url, tmp_path_factory.mktemp("workers"))
    yield found
    found.close()


@pytest.fixture
def backend_settings(clusters: Clusters, world: str) -> Settings:
    """Settings of client and worker; the tasks are those of `contract_tasks`."""
    return clusters.settings(world)


@pytest.fixture
def backend_app(clusters: Clusters, world: str, request: pytest.FixtureRequest) -> Celery:
    """The client's app; in a world that has a worker, that runs."""
    require(world)
    if world == "celery-sim":
        simulated: Celery = request.getfixturevalue("simulated_app")
        return simulated
    return clusters.app(world) if world in CLUSTERS else create_app(clusters.settings(world))


@pytest.fixture
def simulated_app(clusters: Clusters) -> Iterator[Celery]:
    """The app in a simulation of its own, and the event loops of the test with it."""
    driver = CelerySimDriver(options=SimulatorOptions(concurrency=SLOTS))
    app = create_app(clusters.settings("celery-sim"))
    driver.begin(app, {}, loops=True)
    driver.start_worker()
    yield app
    driver.reset()


@pytest.fixture
def slots(world: str) -> int:
    """How many runs the implementation under test can run side by side."""
    return CLUSTERS[world].slots if world in CLUSTERS else SLOTS


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The client's event loop."""
    return str(request.param)


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    """The name of the implementation under test."""
    return str(request.param)


@pytest.fixture
def tasks(backend_settings: Settings) -> ModuleType:
    """The tasks, under the name the worker knows them by."""
    assert backend_settings.imports == ("contract_tasks",)
    return import_module("contract_tasks")


@pytest.fixture
def unopened(world: str, request: pytest.FixtureRequest) -> TaskBackend:
    """The implementation under test, before it is opened."""
    if world == "anyio":
        return AnyIOBackend(grace=0, threads=SLOTS)
    app: Celery = request.getfixturevalue("backend_app")
    if world == "eager":
        app.conf.task_always_eager = True
    return CeleryBackend(app, settings=request.getfixturevalue("backend_settings"))


@pytest.fixture
async def backend(unopened: TaskBackend) -> AsyncIterator[TaskBackend]:
    """The implementation under test, open."""
    async with unopened as opened:
        yield opened


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Play the other pools and brokers on one loop: it is the client's, and they are not there."""
    left = [item for item in items if not _is_repetition(item)]
    if len(left) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if _is_repetition(item)])
        items[:] = left
    for item in items:
        reason = UNABLE.get(_world(item), {}).get(getattr(item, "originalname", ""))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason))


def _is_repetition(item: pytest.Item) -> bool:
    given = item.callspec.params if hasattr(item, "callspec") else {}
    world, loop = _world(item), given.get("anyio_backend")
    # What is not in the client's loop knows nothing of it: both loops for the first of the suites.
    beside = world in ("celery", "celery-sim", "eager") and item.path.name != "test_task_backend.py"
    return loop == "trio" and (beside or world in CLUSTERS.keys() - {"celery"})


def _world(item: pytest.Item) -> str:
    return str(item.callspec.params.get("world")) if hasattr(item, "callspec") else ""
