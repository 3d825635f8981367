from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from taskservice import (
    CeleryBackend,
    ConfigurationError,
    LaunchOptionError,
    Settings,
    TaskRegistry,
    create_app,
    default_registry,
    task,
)
from taskservice.backends.definitions import register_definitions
from taskservice.backends.probing import refuse_outlasting
from taskservice.worker.config import celery_config

if TYPE_CHECKING:
    from celery import Celery

    from tests.taskservice.worker_groups import StartWorker


def app_with(settings: Settings) -> Celery:
    return create_app(settings)


def test_only_json_is_spoken() -> None:
    config = celery_config(Settings())

    assert config["accept_content"] == ["json"]
    assert config["task_serializer"] == config["result_serializer"] == "json"


def test_settings_become_celerys() -> None:
    settings = Settings(
        redis_url="redis://here/1",
        result_backend="redis://there/2",
        default_queue="work",
        routes={"shop.*": "shop"},
        visibility_timeout=timedelta(minutes=5),
        result_expires=timedelta(hours=2),
        timezone="Europe/Paris",
        broker_key_prefix="p:",
    )

    conf = app_with(settings).conf

    assert (conf.broker_url, conf.result_backend) == ("redis://here/1", "redis://there/2")
    assert conf.task_default_queue == "work"
    assert conf.task_routes == {"shop.*": {"queue": "shop"}}
    assert conf.broker_transport_options == {
        "visibility_timeout": 300,
        "global_keyprefix": "p:",
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 10,
        "socket_keepalive": True,
    }
    assert conf.result_backend_transport_options == {"visibility_timeout": 300, "global_keyprefix": "p:"}
    assert conf.result_expires == timedelta(hours=2)
    assert str(conf.timezone) == "Europe/Paris"
    assert conf.enable_utc
    assert conf.task_track_started
    assert conf.result_extended
    assert conf.broker_connection_retry_on_startup


def test_a_message_is_acknowledged_when_its_run_is_over_unless_its_task_says_otherwise() -> None:
    tasks = TaskRegistry()
    late = task(name="worker_config.late", registry=tasks)(print)
    early = task(name="worker_config.early", acks_late=False, registry=tasks)(print)
    app = app_with(Settings(prefetch=3))

    register_definitions(app, tasks)

    assert app.tasks[late.name].acks_late
    assert app.tasks[late.name].reject_on_worker_lost
    assert not app.tasks[early.name].acks_late
    assert app.conf.worker_prefetch_multiplier == 3


def test_rabbitmq_confirms_what_it_accepts_and_knows_priorities() -> None:
    conf = app_with(Settings(broker_url="amqp://here")).conf

    assert conf.broker_transport_options == {"confirm_publish": True}
    assert conf.task_queue_max_priority == 9


@pytest.mark.parametrize(
    ("broker", "acks_late", "seconds", "refused"),
    [
        ("redis://here", None, 300, True),
        ("redis://here", None, 299, False),
        ("redis://here", False, 300, False),
        ("amqp://here", None, 300, False),
    ],
)
def test_a_task_that_outlasts_its_delivery_is_refused(
    broker: str, acks_late: bool | None, seconds: float, refused: bool
) -> None:
    tasks = TaskRegistry()
    task(name="worker_config.long", time_limit=seconds, acks_late=acks_late, registry=tasks)(print)
    app = app_with(Settings(broker_url=broker, visibility_timeout=timedelta(minutes=5)))
    register_definitions(app, tasks)

    if refused:
        with pytest.raises(
            LaunchOptionError, match=r"'worker_config.long' may run for 300 s, and .* is 300 s"
        ):
            refuse_outlasting(app, app.tasks.values())
    else:
        refuse_outlasting(app, app.tasks.values())


def test_a_worker_does_not_start_with_such_a_task(start_worker: StartWorker, closed_port: int) -> None:
    worker = start_worker(
        f"redis://127.0.0.1:{closed_port}/0",
        imports="tests.taskservice.outlasting_tasks",
        visibility_timeout="300",
    )

    assert worker.wait() == 2
    assert "may run for 300 s, and the broker's visibility_timeout is 300 s" in worker.log.read_text()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nor_is_it_launched() -> None:
    long = task(name="worker_config.longer", time_limit=300, registry=TaskRegistry())(print)
    app = app_with(Settings(visibility_timeout=timedelta(minutes=5)))

    async with CeleryBackend(app) as backend:
        with pytest.raises(LaunchOptionError, match="raise visibility_timeout, lower the limit, or"):
            await backend.launch_task(long)


def test_celerys_key_names_are_kept_by_default() -> None:
    assert "global_keyprefix" not in celery_config(Settings())["broker_transport_options"]


def test_definitions_become_tasks_of_the_app() -> None:
    @task(name="worker_config.add")
    def add(left: int, right: int) -> int:
        return left + right

    app = app_with(Settings())

    assert "worker_config.add" in default_registry
    assert app.tasks["worker_config.add"](1, right=2) == 3
    assert add(1, 2) == 3


def test_a_definition_goes_to_the_app_it_was_registered_on_alone() -> None:
    definition = task(name="worker_config.alone", registry=TaskRegistry())(print)
    first = app_with(Settings())

    register_definitions(first, [definition])

    assert definition.name in first.tasks
    assert definition.name not in app_with(Settings()).tasks


def test_a_missing_module_is_told() -> None:
    with pytest.raises(ConfigurationError, match="put 'no_such_tasks' on the import path"):
        app_with(Settings(imports=("no_such_tasks",)))
