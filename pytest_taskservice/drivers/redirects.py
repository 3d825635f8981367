"""Redis servers that stand for others: a client that is told one address connects to another.

Code under test opens Redis clients of its own, at the address that its Celery settings name too. While a
redirect is installed, redis-py's plain TCP connections to such an address reach the server that the tests
own. The number of the database stays; user and password do not travel, since that server has none.

Leans on ``redis.connection.Connection._connect`` and its asyncio twin's ``_connection_arguments``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from pytest_taskservice.errors import HarnessError

__all__ = ["install"]

_LOCAL = ("127.0.0.1", "::1")
_SECRETS = ("username", "password", "credential_provider")


def install(addresses: Mapping[str, str]) -> Callable[[], None]:
    """Have clients of every ``host:port`` connect to the one that stands for it; returns the way back.

    Afterwards connections made meanwhile are closed, and find their own server when they are used again.
    """
    if not addresses:
        return _nothing

    from redis import connection
    from redis.asyncio import connection as aio

    table = {_address(*_split(name)): _split(target) for name, target in addresses.items()}
    moved: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
    undo = [
        _wrap(connection, "_connect", lambda made: _connecting(made, table, moved)),
        _wrap(aio, "_connection_arguments", lambda made: _arguments(made, table, moved)),
    ]

    def restore() -> None:
        for back in undo:
            back()
        for client, secrets in list(moved.items()):
            vars(client).update(secrets)
            if isinstance(client, connection.Connection):
                loose: Any = client
                loose.disconnect()

    return restore


def _wrap(module: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    original = vars(module.Connection).get(name)
    if original is None:
        raise HarnessError(f"this redis-py has no {module.__name__}.Connection.{name}: redirects need it")
    setattr(module.Connection, name, make(original))

    def undo() -> None:
        setattr(module.Connection, name, original)

    return undo


def _connecting(original: Any, table: Mapping[str, tuple[str, int]], moved: Any) -> Any:
    @wraps(original)
    def connect(self: Any) -> Any:
        target = _target(self, table, moved)
        if target is None:
            return original(self)
        with _standing_at(self, target):
            return original(self)

    return connect


def _arguments(original: Any, table: Mapping[str, tuple[str, int]], moved: Any) -> Any:
    @wraps(original)
    def arguments(self: Any) -> Any:
        target = _target(self, table, moved)
        given = original(self)
        return given if target is None else {**given, "host": target[0], "port": target[1]}

    return arguments


def _target(client: Any, table: Mapping[str, tuple[str, int]], moved: Any) -> tuple[str, int] | None:
    # TLS would be spoken to a server that has none.
    if "SSL" in type(client).__name__:
        return None
    target = table.get(_address(client.host, client.port))
    if target is not None and client not in moved:
        moved[client] = {name: getattr(client, name) for name in _SECRETS}
        vars(client).update(dict.fromkeys(_SECRETS))
    return target


@contextmanager
def _standing_at(client: Any, target: tuple[str, int]) -> Iterator[None]:
    own = client.host, client.port
    client.host, client.port = target
    try:
        yield
    finally:
        client.host, client.port = own


def _address(host: Any, port: Any) -> str:
    return f"{'localhost' if host in _LOCAL else host}:{int(port)}"


def _split(name: str) -> tuple[str, int]:
    host, _, port = name.rpartition(":")
    return host, int(port)


def _nothing() -> None:
    """Undo nothing."""
