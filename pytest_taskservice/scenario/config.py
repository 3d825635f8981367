"""Reading ``config`` of a document, and Celery's own settings in it."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.model import Config
from pytest_taskservice.scenario.nodes import Items, Node, Scalar, Table, describe, wrong
from pytest_taskservice.scenario.words import unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.scenario.nodes import Entry

__all__ = ["BROKERS", "CONFIG", "DURATIONS", "celery_settings", "read_config"]

DURATIONS = (
    "task_soft_time_limit",
    "task_time_limit",
    "busy_after",
    "input_timeout",
    "stale_after",
    "data_ttl",
)
CONFIG = (*DURATIONS, "start", "broker", "celery")
BROKERS = ("redis", "amqp")

_FIRST_YEAR, _LAST_YEAR = 2000, 2099
_OURS = {
    "task_soft_time_limit": "config has a key of its own for it",
    "task_time_limit": "config has a key of its own for it",
    "beat_schedule": "write beat: instead",
}
# A file is a story: it neither chooses servers nor names code to be imported.
_WORLDS = (
    *("url", "loader", "scheduler", "cls", "class", "consumer", "agent", "autoscaler", "backends", "backend"),
)
_WORLDS_OWN = (
    "accept_content",
    "beat_schedule_filename",
    "broker_transport",
    "broker_use_ssl",
    "imports",
    "include",
    "redis_backend_use_ssl",
    "result_accept_content",
    "task_always_eager",
    "worker_concurrency",
    "worker_pool",
    "worker_pool_putlocks",
    "worker_state_db",
)
_SECTIONS = ("security_", "database_", "mongodb_", "elasticsearch_", "couchbase_", "arangodb_", "cassandra_")
_VISIBILITY = "visibility_timeout"
_TRANSPORT = "broker_transport_options"


def read_config(node: Node | None) -> Config:
    """Return the settings of a story."""
    if node is None:
        return Config()

    table = fields.table(node, "config")
    fields.known_keys(table, "config", CONFIG)
    said: dict[str, Any] = {
        key: fields.some_time(given, key) for key in DURATIONS if (given := table.get(key)) is not None
    }
    if (start := table.get("start")) is not None:
        said["start"] = _instant(start)
    if (broker := table.get("broker")) is not None:
        said["broker"] = fields.word(broker, "broker", BROKERS)
    if (celery := table.get("celery")) is not None:
        said["celery"] = _celery(fields.table(celery, "celery"))
    return Config(**said)


def _instant(node: Node) -> str:
    text = fields.text(node, "start")
    example = "start is an instant with its offset from UTC, such as 2026-03-27T00:00:00+01:00"
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise wrong(node.mark, f"found {describe(node)}, which is no instant; {example}") from error

    if found.utcoffset() is None:
        raise wrong(node.mark, f"found {describe(node)} without an offset; {example}")

    if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise wrong(
            node.mark, f"found the year {found.year}; start is between {_FIRST_YEAR} and {_LAST_YEAR}"
        )
    return text


@cache
def celery_settings() -> Mapping[str, str]:
    """Return the settings of Celery that a file may have, each with its type."""
    from celery.app.defaults import NAMESPACES, flatten

    # The stubs take it for a list of names.
    options: Any = flatten(NAMESPACES)
    return {
        name: str(option.type) for name, option in options if name not in _OURS and not _is_the_worlds(name)
    }


def _is_the_worlds(name: str) -> bool:
    return name in _WORLDS_OWN or name.endswith(_WORLDS) or name.startswith(_SECTIONS)


def _celery(table: Table) -> dict[str, Any]:
    known = celery_settings()
    found: dict[str, Any] = {}
    for name, entry in table.entries.items():
        if name == _VISIBILITY:
            continue
        if why := _OURS.get(name):
            raise wrong(entry.key.mark, f"found {name!r} in celery; {why}")
        if name not in known:
            raise wrong(entry.key.mark, _refusal(name, known))
        found[name] = _setting(entry, known[name])
    if visibility := table.entries.get(_VISIBILITY):
        found[_TRANSPORT] = {**found.get(_TRANSPORT, {}), **_visibility(visibility, found)}
    return found


def _refusal(name: str, known: Mapping[str, str]) -> str:
    if _is_the_worlds(name):
        return f"found {name!r} in celery; the world itself sets it, a story cannot"

    sentence = unknown("setting of Celery", name, (*known, _VISIBILITY))
    # There are too many to be told.
    return f"{sentence.partition(' allowed: ')[0]} allowed: lower-case names of Celery's documentation"


def _visibility(entry: Entry, found: Mapping[str, Any]) -> dict[str, Any]:
    if _VISIBILITY in (found.get(_TRANSPORT) or {}):
        raise wrong(entry.key.mark, f"found {_VISIBILITY} here and in {_TRANSPORT}; write it once")
    return {_VISIBILITY: _plain_number(fields.some_time(entry.value, _VISIBILITY))}


def _setting(entry: Entry, kind: str) -> Any:
    name, node = entry.key.value, entry.value
    what = str(name)
    match kind:
        case "bool":
            return fields.boolean(node, what)
        case "int" | "float":
            return _number(node, what, whole=kind == "int")
        case "string":
            return fields.text(node, what)
        case "dict":
            return _options(fields.table(node, what))
        case "array" | "list" | "tuple":
            if not isinstance(node, Items):
                raise wrong(node.mark, f"found {describe(node)}; {what} is a list")
            return fields.plain(node)
    return _number(node, what, whole=False) if _is_time(node) else fields.plain(node)


def _options(table: Table) -> dict[str, Any]:
    """Return a mapping whose times may bear units."""
    return {
        key: _number(entry.value, key, whole=False) if _is_time(entry.value) else fields.plain(entry.value)
        for key, entry in table.entries.items()
    }


def _is_time(node: Node) -> bool:
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        return False
    return fields.is_duration(node.value)


def _number(node: Node, what: str, *, whole: bool) -> float | int:
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, str) and fields.is_duration(value):
        value = _plain_number(fields.duration(node, what))
    number = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not number:
        kind = "whole number" if whole else "number"
        raise wrong(node.mark, f"found {describe(node)}; {what} is a {kind}, or a time such as 30s")
    return value  # type: ignore[return-value]  # a number, as has just been seen


def _plain_number(seconds: float) -> float | int:
    return int(seconds) if seconds.is_integer() else seconds
