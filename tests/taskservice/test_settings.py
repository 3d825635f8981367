from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from taskservice.errors import ConfigurationError
from taskservice.settings import Settings, load_settings


def test_broker_and_results_default_to_the_redis_url() -> None:
    settings = Settings(redis_url="redis://here:1/2")

    assert settings.effective_broker_url == "redis://here:1/2"
    assert settings.effective_result_backend == "redis://here:1/2"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSERVICE_BACKEND", "anyio")
    monkeypatch.setenv("TASKSERVICE_QUEUES", "mail, reports")
    monkeypatch.setenv("TASKSERVICE_IMPORTS", '["shop.tasks"]')
    monkeypatch.setenv("TASKSERVICE_ROUTES", '{"shop.*": "mail"}')
    monkeypatch.setenv("TASKSERVICE_RESULT_EXPIRES", "60")

    settings = load_settings()

    assert settings.backend == "anyio"
    assert settings.queues == ("mail", "reports")
    assert settings.imports == ("shop.tasks",)
    assert settings.routes == {"shop.*": "mail"}
    assert settings.result_expires == timedelta(minutes=1)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().backend = "celery"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("BACKEND", "celry", r"unknown backend 'celry'; did you mean 'celery'\?"),
        ("TIMEZONE", "Mars/Olympus", "unknown time zone 'Mars/Olympus'"),
        ("HEARTBEAT_TTL", "1", "need heartbeat_interval < heartbeat_ttl"),
        ("RETENTION_COUNT", "0", r"TASKSERVICE_RETENTION_COUNT \(retention_count\)"),
        ("ROUTES", "mail", "a dict is JSON"),
        ("QUEUES", "[mail", "queues"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"TASKSERVICE_{name}", value)

    with pytest.raises(ConfigurationError, match=message) as caught:
        load_settings()

    assert "\n" not in str(caught.value)


def test_a_misspelt_setting_in_code_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="redis_ulr"):
        load_settings(redis_ulr="redis://here")
