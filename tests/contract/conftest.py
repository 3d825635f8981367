"""The back ends under test; one Redis and one real worker for the whole session."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import AnyIOBackend, CeleryBackend, Settings, TaskBackend, create_app, read_heartbeats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import ModuleType

    from celery import Celery

HERE = Path(__file__).parent
START_SECONDS = 20
SLOTS = 2
LOOPS = ("asyncio", "trio")
WORLDS = ("anyio", "celery", "eager")


@pytest.fixture(scope="session")
def backend_redis_url() -> Iterator[str]:
    """A Redis server of our own, gone after the session."""
    server = acquire(RedisRequest())
    yield server.url
    server.close()


@pytest.fixture(scope="session")
def backend_settings(backend_redis_url: str) -> Settings:
    """Settings of client and worker; the tasks are those of `contract_tasks`."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    return Settings(redis_url=backend_redis_url, imports=("contract_tasks",))


@pytest.fixture(scope="session")
def backend_app(backend_settings: Settings) -> Celery:
    """The client's app."""
    return create_app(backend_settings)


@pytest.fixture(scope="session")
def backend_worker(backend_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One prefork worker with two slots, from ready to shut down."""
    log = tmp_path_factory.mktemp("worker") / "log"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        "TASKSERVICE_REDIS_URL": backend_settings.redis_url,
        "TASKSERVICE_IMPORTS": "contract_tasks",
    }
    argv = [sys.executable, "-c", "from taskservice.cli import main; main()"]
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [*argv, "worker", "-P", "prefork", "-c", str(SLOTS)],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until(lambda: _beats(backend_settings), f"the worker, see {log}")
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=START_SECONDS)


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
    if world == "celery":
        request.getfixturevalue("backend_worker")
        return CeleryBackend(request.getfixturevalue("backend_app"))

    app: Celery = create_app(request.getfixturevalue("backend_settings"))
    app.conf.task_always_eager = True
    return CeleryBackend(app)


@pytest.fixture
async def backend(unopened: TaskBackend) -> AsyncIterator[TaskBackend]:
    """The implementation under test, open."""
    async with unopened as opened:
        yield opened


def _beats(settings: Settings) -> bool:
    return bool(read_heartbeats(settings.redis_url, settings.key_prefix))


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come up in {START_SECONDS} s")
        time.sleep(0.02)
