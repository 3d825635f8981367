"""A server in a container, through testcontainers.

Ryuk, the sidecar that removes what a killed run leaves, is off unless the user configured it: it
needs an image of its own and a privileged socket. Instead the reaper removes our container, and
each start sweeps those whose owner is dead. Inside a container the engine is taken to run beside
us; for one that runs outside, set ``TESTCONTAINERS_CONNECTION_MODE``.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.redis.base import RedisRequest, RedisServer
from pytest_taskservice.redis.wire import version_text, wait_ready
from taskservice.programs import LOOPBACK
from taskservice.reaper import Reaper, process_identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testcontainers.core.container import DockerContainer

__all__ = ["LABEL", "start_container"]

LABEL = "org.taskservice.run"
REDIS_PORT = 6379
LOCAL_HOSTS = frozenset({"localhost", LOOPBACK, "::1"})
ENDED = frozenset({"exited", "dead"})

logger = logging.getLogger(__name__)


def start_container(request: RedisRequest, reaper: Reaper) -> RedisServer:
    """Start ``request.image`` in a container of its own, reachable from this machine only."""
    try:
        from docker.errors import APIError, DockerException
        from testcontainers.core.container import DockerContainer
    except ImportError as error:
        raise RedisProviderError(
            f"testcontainers is not installed; install 'taskservice[containers]': {error}"
        ) from error

    with ExitStack() as stack, _configured():
        try:
            # Not its RedisContainer: that one waits by polling once a second.
            container = DockerContainer(
                request.image,
                docker_client_kw={"timeout": request.timeout},
                labels={LABEL: _owner_label(os.getpid())},
            )
            stack.callback(container.get_docker_client().client.close)
            _sweep(container.get_docker_client().client)
            return _start(container, request, reaper, stack)
        except RedisProviderError:  # an OSError too, and already told
            raise
        except APIError as error:
            raise RedisProviderError(
                f"the docker engine cannot run image {request.image!r}; pull it or name another: {error}"
            ) from error
        except (DockerException, OSError) as error:
            raise RedisProviderError(
                f"no docker engine answers; start one or use --taskservice-redis=embedded: {error}"
            ) from error


def _start(
    container: DockerContainer, request: RedisRequest, reaper: Reaper, stack: ExitStack
) -> RedisServer:
    container.with_exposed_ports(REDIS_PORT)
    _publish_locally(container)
    watches = stack.enter_context(ExitStack())
    stack.callback(_remove, container)
    container.start()
    watches.callback(reaper.watch_container(container.get_container_id()))
    try:
        host, port = _address(container)
        info = wait_ready(host, port, timeout=request.timeout)
    except (OSError, StopIteration) as error:  # the latter says that the container ended
        log = b"".join(container.get_logs()).decode("utf-8", "replace").strip()[-1000:]
        raise RedisProviderError(
            f"image {request.image!r} gave no Redis within {request.timeout} s: {error}\n{log}"
        ) from error

    return RedisServer(
        url=f"redis://{host}:{port}/0",
        provider="container",
        version=version_text(info),
        owned=True,
        _closers=[stack.pop_all().close],
    )


def _address(container: DockerContainer) -> tuple[str, int]:
    host = container.get_container_host_ip()
    # Its IPv6 face may be somebody else's: the port is published on the IPv4 loopback.
    return LOOPBACK if host == "localhost" else host, container.get_exposed_port(REDIS_PORT)


def _remove(container: DockerContainer) -> None:
    from docker.errors import NotFound

    with suppress(NotFound):
        container.stop()


@contextmanager
def _configured() -> Iterator[None]:
    """Set what the user left open, while we start: other containers keep their settings."""
    from testcontainers.core.config import ConnectionMode, testcontainers_config

    config = testcontainers_config
    ryuk, mode = config.ryuk_disabled, config.connection_mode_override
    if "TESTCONTAINERS_RYUK_DISABLED" not in os.environ and "ryuk.disabled" not in config.tc_properties:
        config.ryuk_disabled = True
    if mode is None and Path("/.dockerenv").exists():
        config.connection_mode_override = ConnectionMode.docker_host
    try:
        yield
    finally:
        config.ryuk_disabled, config.connection_mode_override = ryuk, mode


def _publish_locally(container: DockerContainer) -> None:
    # Published ports are open to the network by default, and this Redis has no password.
    client = container.get_docker_client()
    if client.get_connection_mode().value == "docker_host" and client.host() in LOCAL_HOSTS:
        ports: dict[str, Any] = container.ports
        ports[str(REDIS_PORT)] = (LOOPBACK, None)


def _owner_label(pid: int) -> str:
    return f"{pid}:{process_identity(pid) or ''}"


def _sweep(client: Any) -> None:
    """Remove the containers of runs that were killed."""
    from docker.errors import APIError

    for summary in client.api.containers(all=True, filters={"label": LABEL}):
        if not _orphaned(summary["Labels"][LABEL], summary["State"]):
            continue
        try:
            client.api.remove_container(summary["Id"], force=True, v=True)
        except APIError as error:
            # Another run's sweep may be at it too.
            logger.debug("orphaned container %s not removed: %s", summary["Id"], error)


def _orphaned(owner: str, state: str) -> bool:
    """Whether the owner is dead for certain; one we cannot see is, once its container ended."""
    pid, _, identity = owner.partition(":")
    ours = process_identity(os.getpid())
    if not pid.isdigit() or not identity or ours is None:
        return state in ENDED
    if identity.rpartition("-")[0] != ours.rpartition("-")[0]:
        return state in ENDED
    return process_identity(int(pid)) != identity
