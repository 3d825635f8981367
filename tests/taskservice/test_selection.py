from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from taskservice import (
    AnyIOBackend,
    BackendUnavailableError,
    CeleryBackend,
    Settings,
    TaskService,
    create_app,
    select_backend,
)
from taskservice.heartbeats import WorkerHeartbeat, heartbeat_key
from taskservice.selection import AvailabilityProbe

if TYPE_CHECKING:
    from tests.taskservice.conftest import RedisProcess

BEAT = WorkerHeartbeat(
    worker="w1", pid=1, queues=("celery",), pool="prefork", slots=2, running=(), at=0.0, version="1"
)


def settings_for(port: int, **given: Any) -> Settings:
    return Settings(redis_url=f"redis://127.0.0.1:{port}/0", **given)


def test_anyio_by_name_asks_nobody(silent_port: int) -> None:
    selection = select_backend(settings_for(silent_port, backend="anyio"))

    assert isinstance(selection.backend, AnyIOBackend)
    assert not selection.fell_back


def test_auto_falls_back_and_says_why(closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "taskservice"):
        selection = select_backend(settings_for(closed_port), probe=AvailabilityProbe())

    assert isinstance(selection.backend, AnyIOBackend)
    assert selection.fell_back
    assert f"no broker at redis://127.0.0.1:{closed_port}/0" in selection.reason
    assert selection.reason in caplog.text


def test_celery_by_name_never_falls_back(closed_port: int) -> None:
    settings = settings_for(closed_port, backend="celery")

    with pytest.raises(BackendUnavailableError, match="start or configure the celery back end"):
        select_backend(settings, probe=AvailabilityProbe())


def test_a_silent_broker_is_given_up_within_the_bound(silent_port: int) -> None:
    start = time.monotonic()

    selection = select_backend(settings_for(silent_port), probe=AvailabilityProbe())

    assert selection.fell_back
    assert time.monotonic() - start < 10


def test_auto_wants_a_worker_too(redis_process: RedisProcess) -> None:
    selection = select_backend(settings_for(redis_process.port), probe=AvailabilityProbe())

    assert selection.fell_back
    assert "but no worker" in selection.reason


def test_auto_takes_celery_where_a_worker_beats(redis_process: RedisProcess) -> None:
    settings = settings_for(redis_process.port)
    app = create_app(settings)
    backend: Any = app.backend
    backend.client.set(heartbeat_key(settings.key_prefix, "w1"), BEAT.to_json())

    selection = select_backend(settings, app, probe=AvailabilityProbe())

    assert isinstance(selection.backend, CeleryBackend)
    assert selection.reason.endswith("worker w1")


def test_an_answer_is_remembered_for_some_seconds(redis_process: RedisProcess) -> None:
    now = [0.0]
    probe = AvailabilityProbe(keep=5, clock=lambda: now[0])
    settings = settings_for(redis_process.port)
    app = create_app(settings)
    first = probe.ask(app)
    redis_process.stop()

    assert probe.ask(app) is first
    now[0] = 5.1
    assert not probe.ask(app).broker


@pytest.mark.anyio
async def test_health_shows_why_the_back_end_was_taken(anyio_backend: str, closed_port: int) -> None:
    async with TaskService.from_settings(settings_for(closed_port)) as service:
        health = await service.health()

    assert anyio_backend
    assert (health.backend, health.requested, health.healthy) == ("anyio", "auto", True)
    assert "no broker" in health.reason
