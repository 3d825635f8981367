"""State in memory is refused where several processes would each have their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from taskservice import AnyIOBackend, CeleryBackend, ConfigurationError, Settings, select_backend
from taskservice.backends.sharing import several_processes
from taskservice.selection import AvailabilityProbe
from taskservice.worker.beat import run_beat
from taskservice.worker.launch import run_worker
from tests.taskservice.conftest import until

if TYPE_CHECKING:
    from pathlib import Path

ALONE = Settings(backend="anyio", allow_in_memory=True, processes=3)

WEB = """
import os, uvicorn
from pathlib import Path
from taskservice import ConfigurationError, Settings, select_backend

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    try:
        found = type(select_backend(Settings(backend="anyio")).backend).__name__
    except ConfigurationError as error:
        found = str(error)
    Path(f"found-{os.getpid()}").write_text(found)
    await send({"type": "lifespan.startup.complete"})
    await receive()

if __name__ == "__main__":
    uvicorn.run("web:app", port=0, workers=WORKERS, lifespan="on")
"""


@pytest.mark.parametrize(
    ("said", "environment", "command", "found"),
    [
        (None, {}, ["pytest", "-n", "4"], None),
        (None, {}, ["/bin/locust", "--processes", "4"], None),
        (None, {}, ["/bin/celery", "worker", "-c", "4"], None),
        (None, {"WEB_CONCURRENCY": "1"}, [], None),
        (None, {"WEB_CONCURRENCY": "2"}, [], "WEB_CONCURRENCY is 2"),
        (None, {"UVICORN_WORKERS": "3"}, [], "UVICORN_WORKERS is 3"),
        (None, {"GUNICORN_CMD_ARGS": "-b :80 -w 4"}, [], "GUNICORN_CMD_ARGS asks for 4 workers"),
        (
            None,
            {"GUNICORN_CMD_ARGS": "--worker-class x --workers=4"},
            [],
            "GUNICORN_CMD_ARGS asks for 4 workers",
        ),
        (None, {"GUNICORN_CMD_ARGS": "-w1 --worker-connections 9 'open"}, [], None),
        (None, {}, ["/bin/gunicorn", "-w4", "x:app"], "gunicorn was started with 4 workers"),
        (None, {}, ["/bin/gunicorn", "--worker-connections", "9", "x:app"], None),
        (
            None,
            {},
            ["/lib/uvicorn/__main__.py", "x:app", "--workers", "2"],
            "uvicorn was started with 2 workers",
        ),
        (None, {}, ["/bin/uvicorn", "x:app", "--reload"], None),
        (1, {"WEB_CONCURRENCY": "2"}, [], None),
        (2, {}, [], "TASKSERVICE_PROCESSES is 2"),
    ],
)
def test_only_what_is_certain_counts(
    said: int | None, environment: dict[str, str], command: list[str], found: str | None
) -> None:
    assert several_processes(said, environment=environment, command=command) == found


def test_anyio_by_name_is_refused_in_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")

    with pytest.raises(ConfigurationError, match=r"asked for by name.* WEB_CONCURRENCY is 4.*BACKEND=celery"):
        select_backend(Settings(backend="anyio"))


def test_falling_back_is_refused_in_one_of_several(closed_port: int) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{closed_port}/0", processes=2)

    with pytest.raises(ConfigurationError, match=r"no broker at .* TASKSERVICE_PROCESSES is 2"):
        select_backend(settings, probe=AvailabilityProbe())


def test_who_says_so_may_keep_runs_in_memory() -> None:
    assert isinstance(select_backend(ALONE).backend, AnyIOBackend)


@pytest.mark.parametrize(("workers", "found"), [(1, "AnyIOBackend"), (2, "uvicorn runs 2 workers")])
def test_a_child_of_uvicorn_knows_its_siblings(tmp_path: Path, workers: int, found: str) -> None:
    (tmp_path / "web.py").write_text(WEB.replace("WORKERS", str(workers)))
    environment = {key: os.environ[key] for key in os.environ if key != "WEB_CONCURRENCY"}
    server = subprocess.Popen(
        [sys.executable, "web.py"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: len(list(tmp_path.glob("found-*"))) == workers, f"start of {workers}")
    finally:
        server.terminate()
        server.wait(timeout=20)

    assert all(found in path.read_text() for path in tmp_path.glob("found-*"))


@pytest.mark.parametrize(
    ("broker", "results", "what"),
    [
        ("memory://", "redis://127.0.0.1:1/0", "the broker is memory://"),
        ("redis://127.0.0.1:1/0", "cache+memory://", "the result backend is cache+memory://"),
    ],
)
@pytest.mark.parametrize("start", [CeleryBackend, lambda app: run_worker(app=app, settings=Settings())])
def test_a_broker_or_results_in_memory_are_refused(start: Any, broker: str, results: str, what: str) -> None:
    app = Celery(broker=broker, backend=results, set_as_current=False)

    with pytest.raises(ConfigurationError, match=re.escape(what)):
        start(app)


def test_a_beat_needs_a_broker_that_others_reach() -> None:
    with pytest.raises(ConfigurationError, match="the broker is memory://"):
        run_beat(settings=Settings(broker_url="memory://"))


def test_an_eager_app_may_be_all_in_memory() -> None:
    app = Celery(broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = True

    assert CeleryBackend(app).name == "celery"
