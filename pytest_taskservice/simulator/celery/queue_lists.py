"""The lists in which kombu keeps queues on a Redis, as a simulated broker would fill them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.simulator.celery.broker import Broker

__all__ = ["BrokerLists"]

_SEPARATOR = "\x06\x16"


class BrokerLists:
    """Those of one server, in each database of which there may be a broker; implements ``QueueLists``.

    ``is_owner`` says whether the caller may ask a broker: other threads than the simulation's own may not.
    """

    def __init__(self, is_owner: Callable[[], bool]) -> None:
        self._is_owner = is_owner
        self._brokers: dict[int, tuple[Broker, str, str]] = {}

    def add(self, client: Any, broker: Broker) -> None:
        """Know the broker that a connection leads to."""
        options = client.transport_options or {}
        # The path of a Unix socket is where others name the database.
        named = options.get("virtual_host") if "socket" in str(client.transport_cls) else client.virtual_host
        database = str(named or "").strip("/") or "0"
        if database.isdigit():
            prefix, separator = options.get("global_keyprefix") or "", options.get("sep") or _SEPARATOR
            self._brokers[int(database)] = broker, str(prefix), str(separator)

    def look(self, database: int, key: bytes) -> list[bytes]:
        """Return what a list holds, the newest message first; nothing if it is none."""
        found = self._find(database, key)
        if found is None:
            return []
        broker, queue, priority = found
        return [dumps(raw).encode() for raw in broker.listed(queue, priority)]

    def drop(self, database: int, key: bytes) -> bool:
        """Drop what it holds; return whether there was anything."""
        found = self._find(database, key)
        return found is not None and found[0].drop(*found[1:])

    def _find(self, database: int, key: bytes) -> tuple[Broker, str, int] | None:
        """Return the broker, the queue and the priority that a list's name tells."""
        known = self._brokers.get(database)
        if known is None or not self._is_owner():
            return None
        broker, prefix, separator = known
        name = key.decode("utf-8", "replace")
        queue, _, priority = name.removeprefix(prefix).partition(separator)
        if not name.startswith(prefix) or not (priority or "0").isdigit():
            return None
        return broker, queue, int(priority or 0)
