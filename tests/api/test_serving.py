"""The API as it is run: uvicorn, a worker and Redis, each a process of its own."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from pytest_taskservice.redis import RedisRequest, acquire
from tests.api.conftest import ANN, BOB, ROOT, TOKENS, as_owner
from tests.commands import running

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

HERE = Path(__file__).parent
WAIT = 20.0
SECRET = "a-secret-in-a-query"


@contextmanager
def served(log: Path, *argv: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of our commands with these settings."""
    environment = {f"TASKSERVICE_{name.upper()}": value for name, value in settings.items()}
    with running(*argv, log=log, environment=environment, folders=(HERE,), patience=WAIT) as process:
        yield process


def listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the URL that the log tells."""
    deadline = time.monotonic() + WAIT
    while (found := re.search(r"listens on (http://\S+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found[1]


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    server = acquire(RedisRequest())
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the API writes, at the lowest level."""
    return tmp_path_factory.mktemp("api") / "log"


@pytest.fixture(scope="module")
def url(redis_url: str, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = {
        "backend": "celery",
        "redis_url": redis_url,
        "imports": "api_flows",
        "workflow_busy": str(WAIT),
        "workflow_sweep_interval": "0.05",
        "api_tokens": dumps(TOKENS),
        "api_admins": "root",
        "payload_limit": "2000000",
    }
    worker_log = tmp_path_factory.mktemp("worker") / "log"
    with (
        served(log, "api", "--port", "0", "-l", "DEBUG", **settings) as api,
        served(worker_log, "worker", "-c", "1", **settings),
    ):
        yield listening(api, log)


@pytest.fixture
def ann(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=as_owner(ANN), timeout=WAIT) as client:
        yield client


def started(client: httpx.Client) -> str:
    answer = client.post("/workflows/api.refund/runs", json={"args": ["7"]})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def events(
    client: httpx.Client, run_id: str, seen: int = 0, until: str | None = None
) -> list[dict[str, Any]]:
    """Return the events after ``seen``, up to the first of kind ``until``: then the connection is broken."""
    found: list[dict[str, Any]] = []
    headers = {"Last-Event-ID": str(seen)} if seen else {}
    with client.stream("GET", f"/workflows/runs/{run_id}/events", headers=headers) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                found.append(loads(line.removeprefix("data: ")))
                if found[-1]["kind"] == until:
                    return found
    return found


def test_a_stream_goes_on_after_a_break_without_gap_or_repetition(ann: httpx.Client) -> None:
    run_id = started(ann)
    first = events(ann, run_id, until="question")

    ann.post(f"/workflows/runs/{run_id}/input", json={"value": {"approved": True}})
    rest = events(ann, run_id, first[-1]["id"])

    assert [each["id"] for each in (*first, *rest)] == list(range(1, len(first) + len(rest) + 1))
    assert rest[-1]["data"]["status"] == "SUCCESS"
    assert ann.get(f"/workflows/runs/{run_id}").json()["result"]["approved"] is True


def test_a_conversation_starts_a_run_and_ends_with_it(url: str) -> None:
    messages: list[dict[str, Any]] = []
    with connect(url.replace("http", "ws") + "/workflows/ws") as ws:
        say(ws, action="auth", token=ANN)
        say(ws, action="init_data", workflow="api.refund", args=["7"])
        for text in ws:
            messages.append(loads(text))
            if messages[-1].get("kind") == "question":
                say(ws, action="input", value={"approved": True})

    assert ws.protocol.close_code == 1000
    assert (messages[0]["type"], messages[-1]["type"]) == ("answer", "end")
    assert messages[-1]["run"]["result"]["approved"] is True


def say(ws: ClientConnection, **message: Any) -> None:
    ws.send(dumps(message))


def test_owners_are_told_apart_by_what_is_kept_in_redis(ann: httpx.Client, redis_url: str) -> None:
    wanted = {"name": "api.add", "args": [1, 2], "options": {"idempotency_key": "once"}}
    ids = {ann.post("/tasks", json=wanted).json()["id"] for _ in range(2)}
    (task_id,) = ids
    key = {"Idempotency-Key": "once"}
    runs = {
        ann.post("/workflows/api.refund/runs", json={"args": ["7"]}, headers=key).json()["id"]
        for _ in range(2)
    }
    (run_id,) = runs
    bob = as_owner(BOB)

    found = over(ann, task_id)
    paths = (f"/tasks/{task_id}", f"/workflows/runs/{run_id}", f"/workflows/runs/{run_id}/events")
    refused = [ann.get(path, headers=bob).status_code for path in paths]
    unknown = ann.get("/tasks/00000000-0000-4000-8000-000000000000")
    ann.post(f"/workflows/runs/{run_id}/stop")

    assert (found["status"], found["result"]) == ("SUCCESS", 3)
    assert refused == [404, 404, 404]
    assert unknown.status_code == 404


def over(client: httpx.Client, task_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT
    while (found := client.get(f"/tasks/{task_id}").json())["status"] not in {"SUCCESS", "FAILURE"}:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return dict(found)


def test_a_dead_letter_is_requeued(ann: httpx.Client) -> None:
    task_id = ann.post("/tasks", json={"name": "api.fail", "args": ["no money"]}).json()["id"]
    root = as_owner(ROOT)
    deadline = time.monotonic() + WAIT
    while (letter := ann.get(f"/dead-letters/{task_id}", headers=root)).status_code == 404:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    again = ann.post(f"/dead-letters/{task_id}/requeue", headers=root)

    assert letter.json()["args"] == ["no money"]
    assert again.status_code == 202
    assert ann.get("/status").json()["backend"] == "celery"


def test_a_body_that_never_ends_is_cut(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    lines = ("POST /tasks HTTP/1.1", "Host: x", f"Authorization: Bearer {ANN}", "Transfer-Encoding: chunked")
    head = "\r\n".join((*lines, "", ""))
    with socket.create_connection((host, int(port)), timeout=WAIT) as client:
        client.sendall(head.encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        try:
            while sent < 50_000_000:
                client.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass

    assert sent < 50_000_000


def test_telling_it_to_stop_ends_streams_and_sockets(redis_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = {
        "backend": "anyio",
        "redis_url": redis_url,
        "imports": "api_flows",
        "api_tokens": dumps(TOKENS),
        "allow_in_memory": "1",
    }
    with served(log, "api", "--port", "0", **settings) as api:
        url = listening(api, log)
        with (
            httpx.Client(base_url=url, headers=as_owner(ANN), timeout=WAIT) as client,
            connect(url.replace("http", "ws") + "/workflows/ws", additional_headers=as_owner(ANN)) as ws,
        ):
            path = f"/workflows/runs/{started(client)}/events"
            with client.stream("GET", path) as stream:
                lines = stream.iter_lines()
                while "question" not in next(lines):
                    pass
                api.terminate()
                rest = list(lines)  # it ends, and whole: httpx raises otherwise
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(timeout=WAIT)

    assert not any(line.startswith("event: error") for line in rest)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_no_token_is_in_the_log_at_any_level(ann: httpx.Client, url: str, log: Path) -> None:
    ann.get("/status", params={"token": SECRET})
    ann.get("/status", headers=as_owner("a-wrong-token-0123456789"))
    socket_url = url.replace("http", "ws") + f"/workflows/ws?token={SECRET}"
    with connect(socket_url, additional_headers=as_owner(ROOT)):
        pass
    with connect(socket_url) as ws:
        say(ws, action="auth", token=BOB)
        say(ws, action="fly", token="a-misplaced-token-0123456789")
        answers = [loads(ws.recv(timeout=WAIT)) for _ in range(2)]
    deadline = time.monotonic() + WAIT
    while log.read_text().count("WEBSOCKET /workflows/ws answered") < 2:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)

    text = log.read_text()

    assert [each["type"] for each in answers] == ["answer", "error"]
    assert "GET /status answered 401" in text
    assert not [word for word in (*TOKENS, "a-wrong-token", "a-misplaced-token", SECRET) if word in text]
