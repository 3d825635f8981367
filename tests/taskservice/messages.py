"""An app whose broker is looked into, and what is sent to it alike by Celery and by us."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.app.task import Task
from redis import Redis

from taskservice import Settings, TaskRegistry, create_app, task
from taskservice.backends.versions import KOMBU

if TYPE_CHECKING:
    from tests.taskservice.conftest import RedisProcess

needs_pipelines = pytest.mark.skipif(
    KOMBU < (5, 7), reason="before 5.7 kombu has no pipelines of messages: Celery publishes each"
)
REGISTRY = TaskRegistry()
WAIT = 15.0
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMESTAMP = re.compile(r'"timestamp": \d{10}\b')
NO_TIME = '"timestamp": 0'
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+\+00:00")
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1, 2.5), {}),
    (("zwölf", [1, {"a": None}]), {"key": "value"}),
    ((), {}),
    ((True,), {"n": 10**30}),
]


@task(registry=REGISTRY, name="many.add", queue="sums")
def add(left: int, right: int = 0) -> int:
    if left < 0:
        raise ValueError(left)
    return left + right


def app_on(redis: RedisProcess, **conf: Any) -> Celery:
    app = create_app(Settings(redis_url=redis.url))
    app.conf.update(conf)
    return app


def celery_task(app: Celery, name: str = "many.plain", **options: Any) -> Task[..., Any]:
    def plain(*args: Any, **kwargs: Any) -> int:
        return len(args) + len(kwargs)

    register: Any = app.task(name=name, shared=False, **options)
    made: Task[..., Any] = register(plain)
    return app.tasks[made.name]


def client_of(app: Celery) -> Any:
    backend: Any = app.backend
    return backend.client


def broker_of(app: Celery) -> Redis:
    """The broker without Celery's key prefix."""
    made: Redis = Redis.from_url(app.conf.broker_url, decode_responses=True)
    return made


def lists(app: Celery) -> dict[str, list[str]]:
    """Every list in the broker, oldest message first; ids and instants, which differ, are blotted out."""
    with broker_of(app) as broker:
        keys = [key for key in broker.keys("*") if broker.type(key) == "list"]
        return {key: [blotted(item) for item in broker.lrange(key, 0, -1)[::-1]] for key in sorted(keys)}


def blotted(text: str) -> str:
    return TIMESTAMP.sub(NO_TIME, INSTANT.sub("<instant>", UUID.sub("<id>", text)))


def empty(app: Celery) -> None:
    with broker_of(app) as broker:
        broker.delete(*lists(app))
