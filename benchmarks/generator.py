"""What the load generator itself reaches: 200 users that send, beside the bare loop, on the same Redis."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio
import redis

from taskservice import BlockingTaskService, CeleryBackend, Settings, TaskService, create_app
from taskservice.load.tasks import noop

__all__ = ["USERS", "measure_generator"]

USERS: Final = 200
SECONDS: Final = 5.0


def measure_generator(redis_url: str) -> dict[str, float]:
    """Return how many a second the bare loops and the users send, and their share of the faster."""
    blocking, awaiting = _bare_loop(redis_url), anyio.run(_async_loop, redis_url)
    users = _users(redis_url)
    return {
        "bare loop, blocking": blocking,
        "bare loop, async": awaiting,
        f"{USERS} users": users,
        "share": users / max(blocking, awaiting),
    }


def _bare_loop(redis_url: str) -> float:
    """Send one after another, as a script does that only sends; nobody works."""
    settings = Settings(redis_url=redis_url)
    with BlockingTaskService(CeleryBackend(create_app(settings), settings=settings)) as service:
        service.launch_task(noop)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            service.launch_task(noop)
            count += 1
        rate = count / (time.perf_counter() - began)
    _forget_all(redis_url)
    return rate


async def _async_loop(redis_url: str) -> float:
    """Do the same on an event loop, without the way there and back."""
    settings = Settings(redis_url=redis_url)
    async with TaskService(CeleryBackend(create_app(settings), settings=settings)) as service:
        await service.launch_task(noop)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            await service.launch_task(noop)
            count += 1
        rate = count / (time.perf_counter() - began)
    _forget_all(redis_url)
    return rate


def _users(redis_url: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        code = "from taskservice.cli import main; main()"
        argv = [sys.executable, "-c", code, "load", "--redis-url", redis_url, "--no-worker", "--forget"]
        argv += ["--users", str(USERS), "--duration", f"{SECONDS:g}s", "--drain", "0s", "--out", folder]
        subprocess.run(argv, check=True, capture_output=True)
        report = json.loads((Path(folder) / "report.json").read_text())
    _forget_all(redis_url)
    rate: float = report["figures"]["sent_rate"]
    return rate


def _forget_all(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
