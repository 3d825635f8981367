"""Flags and ini settings, read once into one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BACKENDS", "HarnessOptions", "add_options", "parse_backends", "read_options"]

BACKENDS = ("celery", "celery-eager", "anyio")

_POOLS = ("prefork", "threads", "solo")
_PROVIDERS = ("auto", "server", "embedded", "container", "fake")

# name, metavar, help; the ini setting has the same name with underscores.
_OPTIONS = (
    (
        "backend",
        "NAMES",
        f"worlds to run tests in: a comma-separated list of {', '.join(BACKENDS)}, or all (celery)",
    ),
    ("redis", "WHICH", f"Redis for the tests: {', '.join(_PROVIDERS)}, or a redis:// URL (auto)"),
    ("redis-image", "IMAGE", "image for --taskservice-redis=container (redis:7-alpine)"),
    ("app", "MODULE:APP", "your Celery app, such as shop.celery:app"),
    ("pool", "POOL", f"pool of the worker: {', '.join(_POOLS)} (prefork)"),
    ("concurrency", "N", "slots of the worker (2)"),
    ("timeout", "SECONDS", "bound for the worker's start (30)"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessOptions:
    """What the user chose; ``explicit`` says that anything was chosen at all."""

    backends: tuple[str, ...] = ("celery",)
    redis: str = "auto"
    redis_image: str = "redis:7-alpine"
    app: str | None = None
    pool: str = "prefork"
    concurrency: int = 2
    timeout: float = 30.0
    explicit: bool = False


def add_options(parser: pytest.Parser) -> None:
    """Declare every flag, and the ini setting of the same name."""
    group = parser.getgroup("taskservice", "tests for background tasks")
    for name, metavar, text in _OPTIONS:
        group.addoption(f"--taskservice-{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"taskservice_{name.replace('-', '_')}", text, default=None)


def read_options(config: pytest.Config) -> HarnessOptions:
    """Return the options; a flag wins over its ini setting. Bad values raise ``pytest.UsageError``."""
    given = {
        field.name: value
        for field in fields(HarnessOptions)
        if field.name not in ("explicit", "backends") and (value := _given(config, field.name))
    }
    backends = _given(config, "backend")
    try:
        return _checked(given, backends)
    except (UnknownNameError, ValueError) as error:
        raise pytest.UsageError(f"taskservice: {error}") from None


def parse_backends(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the worlds named in a comma-separated string or a list; ``all`` means every one."""
    found = names.split(",") if isinstance(names, str) else list(names)
    wanted = [name.strip() for name in found if name.strip()]
    for name in wanted:
        if name not in (*BACKENDS, "all"):
            raise UnknownNameError("backend", name, (*BACKENDS, "all"))
    if not wanted:
        raise ValueError(f"no backend given; known: {', '.join(BACKENDS)}, all")
    return BACKENDS if "all" in wanted else tuple(dict.fromkeys(wanted))


def _given(config: pytest.Config, name: str) -> Any:
    option = config.getoption(f"taskservice_{name}", default=None)
    return option if option is not None else config.getini(f"taskservice_{name}")


def _checked(given: dict[str, Any], backends: str | None) -> HarnessOptions:
    values: dict[str, Any] = dict(given)
    if backends is not None:
        values["backends"] = parse_backends(backends)
    if (pool := given.get("pool", "prefork")) not in _POOLS:
        raise UnknownNameError("pool", pool, _POOLS)
    if (redis := given.get("redis", "auto")) not in _PROVIDERS and "://" not in redis:
        raise UnknownNameError("redis provider", redis, (*_PROVIDERS, "redis://HOST:PORT/DB"))
    values["concurrency"] = _number(given, "concurrency", 2, int)
    values["timeout"] = _number(given, "timeout", 30.0, float)
    return HarnessOptions(explicit=bool(given or backends is not None), **values)


def _number(given: dict[str, Any], name: str, default: Any, kind: type[Any]) -> Any:
    text = given.get(name, default)
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < 10_000:
        raise ValueError(f"--taskservice-{name} needs a number above 0, got {text!r}")
    return value
