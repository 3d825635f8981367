"""The back ends under test; one Redis, and one real worker a world, for the whole session."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis import Redis

from pytest_taskservice.drivers.base import Stage
from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver, WorkerOptions
from pytest_taskservice.drivers.synthetic import SYNTHETIC, register
from pytest_taskservice.fixtures import HARNESS, WORLD
from pytest_taskservice.redis import RedisRequest, acquire
from pytest_taskservice.scenario.model import Config, Workers
from pytest_taskservice.worlds import worlds_of
from taskservice import AnyIOBackend, CeleryBackend, Settings, TaskBackend, create_app
from taskservice.backends.storage import Storage
from taskservice.reaper import shared_reaper
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.store.redis import RedisStore
from tests.contract.clusters import CLUSTERS, UNABLE, Clusters, require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from types import ModuleType

    from celery import Celery

    from pytest_taskservice.drivers.base import StoryDriver, WorkflowControl
    from pytest_taskservice.scenario.model import Workflow
    from taskservice.workflow.store.base import WorkflowStore

SLOTS = 2
LOOPS = ("asyncio", "trio")
STORES = ("memory", "server", "embedded", "fake")
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


@pytest.fixture
def open_stage(story_driver: StoryDriver) -> Callable[..., WorkflowControl]:
    """Begins a story with these workflows and a configuration of one's own."""
    # Not sooner: an app that is made becomes the current one, for whoever asks for that.
    from tests.contract.flow_stories import FLOWS, app

    def begin(flows: list[Workflow] | None = None, **config: Any) -> WorkflowControl:
        story_driver.set_stage(
            Stage(config=Config(**config), workflows={each.name: each for each in flows or FLOWS})
        )
        story_driver.begin(app, {})
        return story_driver.workflows()

    return begin


@pytest.fixture
def driver(story_driver: StoryDriver) -> StoryDriver:
    """The driver of the world that the test runs in."""
    return story_driver


@pytest.fixture
def control(open_stage: Callable[..., WorkflowControl]) -> WorkflowControl:
    """Control in a story that says nothing of deadlines."""
    return open_stage()


@pytest.fixture(scope="module")
def shared() -> Iterator[CeleryWorkerDriver]:
    """A driver that keeps its workers from one story to the next."""
    server = acquire(RedisRequest(choice="embedded"))
    driver = CeleryWorkerDriver(
        server, options=WorkerOptions(concurrency=2, timeout=20), reaper=shared_reaper()
    )
    yield driver
    driver.close()
    server.close()


@pytest.fixture
def begin(shared: CeleryWorkerDriver) -> Iterator[Callable[..., CeleryWorkerDriver]]:
    """Begins a story on real workers."""
    from tests.contract.worker_stories import app

    def begin(*, settings: Mapping[str, Any] | None = None, **stage: Any) -> CeleryWorkerDriver:
        shared.set_stage(Stage(**{"workers": Workers(count=1, concurrency=1), **stage}))
        shared.begin(app, settings or {})
        register(app)
        return shared

    yield begin
    shared.reset()
    app.tasks.pop(SYNTHETIC, None)


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


@pytest.fixture(scope="session")
def redis_urls() -> Iterator[Callable[[str], str]]:
    """The URL of a server of each kind, started when first asked for."""
    servers: dict[str, Any] = {}

    def url(choice: str) -> str:
        if choice not in servers:
            servers[choice] = acquire(RedisRequest(choice=choice))
        return str(servers[choice].url)

    yield url
    for server in servers.values():
        server.close()


@pytest.fixture
def prefix() -> str:
    """Before every key of this test."""
    return f"{uuid4()}:"


@pytest.fixture(params=STORES)
def store(
    request: pytest.FixtureRequest, redis_urls: Callable[[str], str], prefix: str
) -> Iterator[WorkflowStore]:
    """The workflow store under test."""
    if request.param == "memory":
        yield MemoryStore()
        return

    with Redis.from_url(redis_urls(request.param)) as opened:
        found = RedisStore(Storage(opened, prefix))
        yield found
        found.close()


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
