from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from redis import Redis

from taskservice.cli import cli
from taskservice.heartbeats import RunningRun, WorkerHeartbeat, heartbeat_key

if TYPE_CHECKING:
    from tests.taskservice.conftest import RedisProcess

BEAT = WorkerHeartbeat(
    worker="w1",
    pid=7,
    queues=("celery", "mail"),
    pool="prefork",
    slots=2,
    running=(RunningRun(id="r1", task="shop.add", since=1.0),),
    at=13.0,
    version="1",
)


def run(*argv: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, argv, env=environment)
    return result.exit_code, result.stdout, result.stderr


def test_help_is_quick_and_complete() -> None:
    code, out, _ = run("--help")

    assert code == 0
    assert {"worker", "beat", "status"} <= set(out.split())


def test_status_without_a_broker_is_one_line_and_exit_code_1(closed_port: int) -> None:
    start = time.monotonic()

    code, out, err = run(
        "status", environment={"TASKSERVICE_REDIS_URL": f"redis://127.0.0.1:{closed_port}/0"}
    )

    assert (code, out) == (1, "")
    assert err.startswith("taskservice: no broker at redis://127.0.0.1:")
    assert err.count("\n") == 1
    assert time.monotonic() - start < 10


def test_status_is_bounded_when_the_broker_is_silent(silent_port: int) -> None:
    start = time.monotonic()

    code, _, err = run("status", environment={"TASKSERVICE_REDIS_URL": f"redis://127.0.0.1:{silent_port}/0"})

    assert code == 1
    assert "no broker" in err
    assert time.monotonic() - start < 10


def test_status_without_a_worker_says_how_to_start_one(redis_process: RedisProcess) -> None:
    code, _, err = run("status", environment={"TASKSERVICE_REDIS_URL": redis_process.url})

    assert code == 1
    assert err == "taskservice: no worker; start one with `taskservice worker`\n"


def test_status_shows_workers_and_queue_depths(redis_process: RedisProcess) -> None:
    with Redis.from_url(redis_process.url) as client:
        client.set(heartbeat_key("taskservice:", "w1"), BEAT.to_json())
        client.rpush("mail", "a", "b")
        client.rpush("mail\x06\x163", "c")
    environment = {"TASKSERVICE_REDIS_URL": redis_process.url, "COLUMNS": "120"}

    code, out, _ = run("status", environment=environment)
    json_code, json_out, _ = run("status", "--json", environment=environment)

    assert code == json_code == 0
    assert "w1" in out
    found = json.loads(json_out)
    assert found["healthy"] is True
    assert found["queues"] == {
        "celery": {"depth": 0, "oldest_age": None},
        "mail": {"depth": 3, "oldest_age": None},
    }
    assert found["workers"][0]["running"] == [{"id": "r1", "task": "shop.add", "since": 1.0}]


def test_a_wrong_setting_is_one_line_and_exit_code_2() -> None:
    code, out, err = run("status", environment={"TASKSERVICE_BACKEND": "celry"})

    assert (code, out) == (2, "")
    assert err == (
        "taskservice: TASKSERVICE_BACKEND (backend): "
        "unknown backend 'celry'; did you mean 'celery'? known: auto, celery, anyio\n"
    )


@pytest.mark.parametrize("name", ["no_such_module:app", "json:dumps", "json"])
def test_a_wrong_app_is_one_line_and_exit_code_2(name: str) -> None:
    code, _, err = run("worker", "--app", name)

    assert code == 2
    assert err.startswith("taskservice: ")
    assert err.count("\n") == 1


def test_an_address_for_metrics_needs_a_port() -> None:
    code, _, err = run("worker", "--metrics-host", "127.0.0.1")

    assert code == 2
    assert "--metrics-host needs --metrics-port" in err


def test_the_console_script_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from taskservice.cli import main; main()", "status", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "--json" in done.stdout
