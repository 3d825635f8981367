"""Real connections while a simulation is open: refused, unless somebody has allowed them.

Virtual time stands still for what answers in real time, so whatever reaches for the network would be told
lies. Unix sockets go on, and so do sockets that are connected already, and those of test tools.

Replaces ``connect`` and ``connect_ex`` of ``socket.socket``, on which ``create_connection``, ``ssl``,
``http.client`` and asyncio all come down. What uses sockets from C, uvloop or a database's client library,
is not seen.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import SocketRefusedError

if TYPE_CHECKING:
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["SocketGuard", "socket_class"]

_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})
# What runs tests, or starts servers for them, as pytest-redis and its kin do by the last two.
_TOOLS = frozenset(
    {
        "_pytest",
        "coverage",
        "debugpy",
        "execnet",
        "pydevd",
        "pytest",
        "pytest_rerunfailures",
        "pytest_timeout",
        "xdist",
        "mirakuru",
        "port_for",
    }
)

# Between who wants a connection and the socket.
_PLUMBING = frozenset({*sys.stdlib_module_names, "anyio", "pytest_taskservice", "trio"})


class SocketGuard:
    """Refuses connections, but those that ``allowed`` names: ``True``, or ``"host"`` and ``"host:port"``."""

    def __init__(self, allowed: bool | Sequence[str]) -> None:
        self._allowed = allowed if isinstance(allowed, bool) else tuple(allowed)

    def install(self, patches: Patches) -> None:
        """Stand before every connection of this process, until ``patches`` are undone."""
        if self._allowed is True:
            return
        names = ("connect", "connect_ex")
        owner = socket_class()
        patches.methods(owner, {name: self._guarded(getattr(owner, name)) for name in names})

    def _guarded(self, before: Any) -> Any:
        def connect(sock: socket.socket, address: Any, /) -> Any:
            if sock.family in _FAMILIES and not self._allows(address):
                caller = _caller()
                if caller is not None:
                    raise SocketRefusedError(f"{address[0]}:{address[1]}", caller)
            return before(sock, address)

        return connect

    def _allows(self, address: Any) -> bool:
        if isinstance(self._allowed, bool):
            return self._allowed
        host, port = str(address[0]), int(address[1])
        return any(_matches(entry, host, port) for entry in self._allowed)


def socket_class() -> type[Any]:
    """Return the class that ``socket.socket`` is, whatever a test has put in its place to forbid sockets."""
    return next(
        kind
        for kind in socket.SocketType.__subclasses__()
        if (kind.__module__, kind.__qualname__) == ("socket", "socket")
    )


def _matches(entry: str, host: str, port: int) -> bool:
    name, _, number = entry.rpartition(":") if entry.rpartition(":")[2].isdigit() else (entry, "", "")
    if number and int(number) != port:
        return False
    name = name.strip("[]").lower()
    if name == host.lower():
        return True
    try:
        return host in {found[4][0] for found in socket.getaddrinfo(name, port)}
    except OSError:
        return False


def _caller() -> str | None:
    """Return the line that wants a connection; ``None`` if it belongs to a tool of the tests themselves."""
    frame = sys._getframe(2)  # noqa: SLF001 - the one way to ask who calls
    first = frame
    while frame is not None:
        root = frame.f_globals.get("__name__", "").partition(".")[0]
        if root in _TOOLS:
            return None
        if root not in _PLUMBING:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{first.f_code.co_filename}:{first.f_lineno}, in {first.f_code.co_name}"
