"""Cleanup that survives ``kill -9``: a helper process undoes what a killed run left behind.

The helper sits at the other end of a pipe and is told what exists: process groups, paths,
containers, keys in a Redis. Whatever is still registered when the pipe ends, or when the helper
gets another parent, is undone. The parent poll is needed beside the end of the pipe: forked
children may hold the pipe open.

This file is also the helper's program. It runs without site-packages, so only the standard library
is imported here; ``redis`` is found through the parent's import path, at the moment a key must go.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Reaper", "Release", "delete_keys", "process_identity", "shared_reaper"]

POLL_SECONDS = 0.25
# A shell that begins once it is told to, and ends without a word if whoever is to tell it has died.
GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh")
UNDO_SECONDS = 1.5  # with the poll and a margin this stays within the promised two seconds
EXIT_SECONDS = 2.5
SCAN_COUNT = 500

Release = Callable[[], None]
"""Says that a thing is gone by itself."""

logger = logging.getLogger(__name__)


class Reaper:
    """The parent's end: remembers for as long as this process lives, and cleans up when it cannot.

    The helper starts with the first registration. Each entry comes with a function that releases it,
    to be called once the thing is gone; calling it twice is harmless. A forked child registers nothing.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._helper: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self, argv: Sequence[str], **options: Any) -> tuple[subprocess.Popen[bytes], Release]:
        """Start a program that is watched before it begins: no instant is left to die in between.

        It leads a process group of its own, and reads nothing. ``options`` are the other ones of
        :class:`subprocess.Popen`. Raises :class:`FileNotFoundError` if there is no such program; one that
        cannot be run ends with status 126 or 127.
        """
        if shutil.which(argv[0]) is None:
            raise FileNotFoundError(errno.ENOENT, "no such program", argv[0])

        process = subprocess.Popen([*GATE, *argv], stdin=subprocess.PIPE, start_new_session=True, **options)
        process.args = list(argv)
        release = self.watch_group(process.pid)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as gate:
            gate.write(b"\n")
        return process, release

    def folder(self, prefix: str) -> tuple[Path, Release]:
        """Make a directory for temporary files that is watched before it is there."""
        path = Path(tempfile.gettempdir(), prefix + os.urandom(6).hex())
        release = self.watch_path(path)
        path.mkdir(0o700)
        return path, release

    def watch_group(self, pgid: int) -> Release:
        """Kill this process group, whose leader has the same id, if we die."""
        return self._watch("group", [pgid, process_identity(pgid)])

    def watch_path(self, path: str | os.PathLike[str]) -> Release:
        """Delete this file or directory tree if we die."""
        return self._watch("path", str(Path(path).absolute()))

    def watch_container(self, container_id: str) -> Release:
        """Remove this container, with its volumes, if we die."""
        return self._watch("container", [container_id, os.environ.get("DOCKER_HOST", "")])

    def watch_keys(self, url: str, prefix: str) -> Release:
        """Delete the keys of the Redis at ``url`` that begin with ``prefix`` if we die."""
        if not prefix:
            raise ValueError("need a key prefix: an empty one names every key")

        return self._watch("keys", [url, prefix, sys.path])

    def close(self) -> None:
        """End the helper; what was not released by now is undone."""
        if self._closed or os.getpid() != self._pid:
            return

        self._closed = True
        if self._helper is None or self._helper.stdin is None:
            return

        with contextlib.suppress(OSError):
            self._helper.stdin.close()
        try:
            self._helper.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("the cleanup helper %d did not end in time", self._helper.pid)

    def _watch(self, kind: str, value: object) -> Release:
        entry = next(self._ids)
        self._send({"watch": entry, "kind": kind, "value": value})
        return partial(self._send, {"release": entry})

    def _send(self, message: dict[str, Any]) -> None:
        if self._closed or os.getpid() != self._pid:
            return

        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            try:
                if self._helper is None:
                    self._helper = _start_helper()
                assert self._helper.stdin is not None
                self._helper.stdin.write(line)
            except (OSError, ValueError) as error:  # broken pipe, or closed by another thread
                # Cleanup after a kill is a safety net: a run must not fail because it tore.
                logger.warning("the cleanup helper is gone: %s", error)
                self.close()


_shared: tuple[int, Reaper] | None = None


def shared_reaper() -> Reaper:
    """Return this process's reaper; a forked child gets one of its own."""
    global _shared  # noqa: PLW0603 - one per process is the point
    if _shared is None or _shared[0] != os.getpid():
        _shared = (os.getpid(), Reaper())
        atexit.register(_shared[1].close)
    return _shared[1]


def process_identity(pid: int) -> str | None:
    """Return text that no other process ever has, even under the same id; ``None`` if unknown.

    It names the boot, the process namespace and the start time; only Linux tells. The part before
    the last ``-`` is the same for all processes that can see each other's ids.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None

    return None if fields[0] in {"Z", "X"} else f"{boot}-{namespace}-{fields[19]}"


def delete_keys(url: str, prefix: str, *, timeout: float = 5.0) -> int:
    """Delete every key that begins with ``prefix``, page by page; return how many went.

    ``timeout`` bounds each single command, in seconds.
    """
    if not prefix:
        raise ValueError("need a key prefix: an empty one names every key")

    import redis

    pattern = "".join(f"\\{char}" if char in "*?[]\\" else char for char in prefix) + "*"
    deleted = 0
    with redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2
    ) as client:
        keys = client.scan_iter(match=pattern, count=SCAN_COUNT)
        while page := list(itertools.islice(keys, SCAN_COUNT)):
            deleted += int(client.unlink(*page))
    return deleted


def _start_helper() -> subprocess.Popen[bytes]:
    # The helper holds none of our streams or directories: a reader of our output must see its end.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        start_new_session=True,
    )


# The helper's side.


def _main(parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    entries = _listen(parent)
    _undo(entries.values())


def _listen(parent: int) -> dict[int, tuple[str, Any]]:
    """Follow the registrations until the parent is gone; return what it left."""
    entries: dict[int, tuple[str, Any]] = {}
    rest = b""
    while True:
        # Asked before reading: what a parent wrote before it died is then still read below.
        orphaned = os.getppid() != parent
        readable, _, _ = select.select([0], [], [], 0 if orphaned else POLL_SECONDS)
        chunk = os.read(0, 1 << 16) if readable else b""
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            _note(entries, json.loads(line))
        if not chunk and (readable or orphaned):
            return entries


def _note(entries: dict[int, tuple[str, Any]], message: dict[str, Any]) -> None:
    if "release" in message:
        entries.pop(message["release"], None)
    else:
        entries[message["watch"]] = (message["kind"], message["value"])


def _undo(entries: Iterable[tuple[str, Any]]) -> None:
    """Undo all: groups first, as they write to paths; the rest side by side, none waiting."""
    todo: dict[str, list[Any]] = {"group": [], "path": [], "container": [], "keys": []}
    for kind, value in entries:
        todo[kind].append(value)

    deadline = time.monotonic() + UNDO_SECONDS
    for pgid, identity in todo["group"]:
        _kill_group(pgid, identity)
    steps = [(_delete_path, todo["path"]), (_remove_container, todo["container"])]
    threads = [
        threading.Thread(target=_each, args=(step, values), daemon=True)
        for step, values in [*steps, (_delete_keys, todo["keys"])]
        if values
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _each(step: Callable[[Any], None], values: list[Any]) -> None:
    for value in values:
        with contextlib.suppress(Exception):  # nobody is left to be told; the next entry still counts
            step(value)


def _kill_group(pgid: int, identity: str | None) -> None:
    # A leader with another start time took over a number that had become free: not ours to kill.
    if identity is not None and process_identity(pgid) not in {identity, None}:
        return

    with contextlib.suppress(OSError):
        os.killpg(pgid, signal.SIGKILL)


def _delete_path(path: str) -> None:
    # A process that was just killed may still finish a write, so a tree can grow while it is
    # deleted.
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(path).unlink()
        if not os.path.lexists(path):
            return
        time.sleep(0.02)


def _remove_container(value: tuple[str, str]) -> None:
    container_id, host = value
    address = urlsplit(host or "unix:///var/run/docker.sock")
    if address.scheme != "unix" or not Path(address.path).exists():
        environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
        command = ["docker", "rm", "--force", "--volumes", container_id]
        subprocess.run(command, check=False, capture_output=True, timeout=UNDO_SECONDS, env=environment)
        return

    import socket
    from http.client import HTTPConnection

    connection = HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(UNDO_SECONDS)
    connection.sock.connect(address.path)
    connection.request("DELETE", f"/containers/{container_id}?force=1&v=1")
    connection.getresponse().read()


def _delete_keys(value: tuple[str, str, list[str]]) -> None:
    url, prefix, import_path = value
    sys.path[:] = import_path
    delete_keys(url, prefix, timeout=UNDO_SECONDS)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
    os._exit(0)
