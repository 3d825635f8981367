"""How a Redis of our own ends, also when its run is killed: no process, port or container is left."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from testcontainers.core.config import testcontainers_config

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.redis import RedisRequest, RedisServer, acquire
from pytest_taskservice.redis.container import LABEL
from taskservice.reaper import process_identity
from tests.contract.redis_providers import IMAGE, need, need_engine
from tests.waiting import eventually

OWN = ("server", "embedded", "container", "fake")


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def port_is_free(server: RedisServer) -> bool:
    address = urlsplit(server.url)
    try:
        socket.create_connection((address.hostname or "", address.port or 0), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture(params=OWN)
def own_provider(request: pytest.FixtureRequest) -> str:
    """Each provider that starts a server of its own."""
    return need(str(request.param))


@pytest.mark.parametrize("owner_lives", [True, False])
def test_a_start_sweeps_the_containers_of_dead_runs_only(owner_lives: bool) -> None:
    need_engine()
    dead = subprocess.Popen(["sleep", "600"])
    label = f"{LABEL}={dead.pid}:{process_identity(dead.pid)}"
    created = docker("create", "--label", label, IMAGE).strip()
    if not owner_lives:
        dead.kill()
        dead.wait()

    acquire(RedisRequest(choice="container", image=IMAGE)).close()

    left = docker("ps", "--all", "--quiet", "--no-trunc").split()
    # While its owner lives nobody else, sweeping just now, removes it too.
    docker("rm", "--force", created)
    dead.kill()
    dead.wait()
    assert (created in left) is owner_lives


def test_a_killed_run_leaves_no_container() -> None:
    need_engine()
    program = (
        "import time; from pytest_taskservice.redis import RedisRequest, acquire\n"
        f"server = acquire(RedisRequest(choice='container', image={IMAGE!r}))\n"
        "print('up', flush=True); time.sleep(600)"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    owner = _owner(run.pid)
    assert _containers(owner)

    run.kill()
    run.wait()
    run.stdout.close()

    assert eventually(lambda: not _containers(owner))


def test_an_image_nobody_has_is_said() -> None:
    need_engine()

    with pytest.raises(RedisProviderError, match="cannot run image 'no-such-image:1'; pull it"):
        acquire(RedisRequest(choice="container", image="no-such-image:1"))


@pytest.mark.parametrize(
    "command",
    ['["/usr/local/bin/redis-cli","--version"]', '["/usr/local/bin/redis-server","--port","1"]'],
)
def test_an_image_without_a_redis_is_said_and_its_container_removed(command: str) -> None:
    need_engine()
    created = docker("create", IMAGE).strip()
    docker("commit", "--change", f"CMD {command}", created, f"no-redis:{os.getpid()}")
    docker("rm", created)

    with pytest.raises(RedisProviderError, match=r"image 'no-redis:\d+' gave no Redis within 3 s"):
        acquire(RedisRequest(choice="container", image=f"no-redis:{os.getpid()}", timeout=3))

    left = _containers(_owner(os.getpid()))
    docker("rmi", f"no-redis:{os.getpid()}")
    assert not left


def test_starting_leaves_the_settings_of_other_containers_alone() -> None:
    need_engine()
    config = testcontainers_config
    before = (config.ryuk_disabled, config.connection_mode_override)

    acquire(RedisRequest(choice="container", image=IMAGE)).close()

    assert (config.ryuk_disabled, config.connection_mode_override) == before


def test_closing_leaves_no_process_directory_port_or_descriptor(
    own_provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    acquire(RedisRequest(choice=own_provider, image=IMAGE)).close()  # imports stay behind, once
    before, threads = _traces(), set(threading.enumerate())

    server = acquire(RedisRequest(choice=own_provider, image=IMAGE))
    running, more = _traces(), set(threading.enumerate())
    server.close()
    server.close()

    assert running != before or more - threads
    assert _traces() == before
    # Those of tests before this one may end at any time.
    assert set(threading.enumerate()) <= threads
    assert port_is_free(server)


def test_two_servers_are_independent(own_provider: str) -> None:
    first = acquire(RedisRequest(choice=own_provider, image=IMAGE))
    second = acquire(RedisRequest(choice=own_provider, image=IMAGE))
    try:
        redis.Redis.from_url(first.url).set("key", "first")
        unseen = redis.Redis.from_url(second.url).get("key")
        first.close()
        alive = redis.Redis.from_url(second.url).ping()
    finally:
        first.close()
        second.close()

    assert unseen is None
    assert alive is True


def _traces() -> dict[str, object]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()
    return {
        "children": children,
        "directories": sorted(Path(tempfile.gettempdir()).glob("taskservice-redis-*")),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "containers": _containers(_owner(os.getpid())),
    }


def _owner(pid: int) -> str:
    return f"{LABEL}={pid}:{process_identity(pid)}"


def _containers(owner: str) -> str:
    """Return the containers of one process only: others run these tests at the same time."""
    if not shutil.which("docker"):
        return ""
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label={owner}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
