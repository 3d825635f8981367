from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from taskservice import ConfigurationError, Settings, TaskRegistry, create_app, default_registry, task
from taskservice.backends.definitions import register_definitions
from taskservice.worker.config import celery_config

if TYPE_CHECKING:
    from celery import Celery


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
    assert conf.broker_transport_options == {"visibility_timeout": 300, "global_keyprefix": "p:"}
    assert conf.result_backend_transport_options == conf.broker_transport_options
    assert conf.result_expires == timedelta(hours=2)
    assert str(conf.timezone) == "Europe/Paris"
    assert conf.enable_utc
    assert conf.task_track_started
    assert conf.result_extended
    assert conf.broker_connection_retry_on_startup


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
