"""Which Redis providers can be tried here, and in which image."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from taskservice.programs import BINARIES

IMAGE = os.environ.get("TASKSERVICE_TEST_REDIS_IMAGE", "redis:7-local")


def need_engine() -> None:
    """Skip without a Docker engine, but fail where CI promised one."""
    docker = shutil.which("docker")
    found = docker and subprocess.run([docker, "info"], capture_output=True, timeout=20, check=False)
    if not found or found.returncode != 0:
        miss("no docker engine answers; start one with .ci/docker-engine DIR")


def need(provider: str) -> str:
    if provider == "container":
        need_engine()
    if provider == "server" and not any(map(shutil.which, BINARIES)):
        miss("no redis-server or valkey-server on PATH")
    return provider


def miss(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
