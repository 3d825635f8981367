"""Flags and ini settings, read once into one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BACKENDS", "DEFAULT_START", "HarnessOptions", "add_options", "parse_backends", "read_options"]

BACKENDS = ("celery", "celery-sim", "celery-eager", "anyio")

DEFAULT_START = datetime(2026, 1, 1, tzinfo=UTC)
"""Where virtual time begins, unless told: the same in every run, so that a seed always tells one story."""

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
    (
        "timeout",
        "SECONDS",
        "bound for the worker's start; celery-sim: for a task that blocks in real time (30)",
    ),
    ("seed", "N", "celery-sim and anyio: the seed that every draw comes from (0)"),
    ("seeds", "N", "celery-sim: run each test with N seeds, from --taskservice-seed on (1)"),
    ("start", "INSTANT", "celery-sim and anyio: the virtual clock's start, in ISO 8601, or now (2026-01-01)"),
    (
        "allow-sockets",
        "HOSTS",
        "celery-sim: real connections that tests may make: all, or a list of host or host:port",
    ),
    ("report", "DIR", "write a record of every test in a world, as JSON and as a page, into this directory"),
    ("events", "N", "celery-sim, anyio: how many events one wait may bring (1000000)"),
)

_TWICE = "celery-sim: run each test twice with the same seed, and fail it where both differ in what happened"


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessOptions:
    """What the user chose; ``explicit`` says that anything was chosen, ``seeded`` that a seed was."""

    backends: tuple[str, ...] = ("celery",)
    redis: str = "auto"
    redis_image: str = "redis:7-alpine"
    app: str | None = None
    pool: str = "prefork"
    concurrency: int = 2
    timeout: float = 30.0
    seed: int = 0
    seeds: int = 1
    start: datetime = DEFAULT_START
    events: int = 1_000_000
    allow_sockets: bool | tuple[str, ...] = False
    check_determinism: bool = False
    report: Path | None = None
    seeded: bool = False
    explicit: bool = False


def add_options(parser: pytest.Parser) -> None:
    """Declare every flag, and the ini setting of the same name."""
    group = parser.getgroup("taskservice", "tests for background tasks")
    for name, metavar, text in _OPTIONS:
        group.addoption(f"--taskservice-{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"taskservice_{name.replace('-', '_')}", text, default=None)
    # None unless given, as for the others.
    group.addoption(
        "--taskservice-check-determinism", action="store_const", const=True, default=None, help=_TWICE
    )
    parser.addini("taskservice_check_determinism", _TWICE, type="bool", default=False)


def read_options(config: pytest.Config) -> HarnessOptions:
    """Return the options; a flag wins over its ini setting. Bad values raise ``pytest.UsageError``."""
    given = {
        field.name: value
        for field in fields(HarnessOptions)
        if field.name not in ("explicit", "backends", "seeded", "report")
        and (value := _given(config, field.name))
    }
    backends = _given(config, "backend")
    try:
        return replace(_checked(given, backends), report=_report_directory(config))
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


def _report_directory(config: pytest.Config) -> Path | None:
    """Return where records go: a flag is seen from where pytest was started, an ini setting from its file."""
    if (flag := config.getoption("taskservice_report", default=None)) is not None:
        return Path(config.invocation_params.dir, flag)
    setting: str | None = config.getini("taskservice_report")
    return config.rootpath / setting if setting else None


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
    values["seed"] = _number(given, "seed", 0, int, least=0, limit=2**63)
    values["seeds"] = _number(given, "seeds", 1, int, limit=1_000_000)
    values["events"] = _number(given, "events", 1_000_000, int, limit=1_000_000_000)
    values["seeded"] = "seed" in given or "seeds" in given
    if "allow_sockets" in given:
        named = tuple(name.strip() for name in str(given["allow_sockets"]).split(",") if name.strip())
        values["allow_sockets"] = True if "all" in named else named
    if "start" in given:
        values["start"] = _instant(given["start"])
    return HarnessOptions(explicit=bool(given or backends is not None), **values)


def _number(  # noqa: PLR0913 - a number, and its bounds
    given: dict[str, Any], name: str, default: Any, kind: type[Any], *, least: int = 1, limit: int = 10_000
) -> Any:
    text = given.get(name, default)
    try:
        value = kind(text)
    except ValueError:
        value = -1
    positive = value > 0 if kind is float else value >= least
    if not positive or not value < limit:
        raise ValueError(f"--taskservice-{name} needs a number of {least} to {limit:,}, got {text!r}")
    return value


def _instant(text: str) -> datetime:
    if text == "now":
        return datetime.now(tz=UTC).replace(microsecond=0)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "--taskservice-start needs an ISO 8601 instant such as 2026-03-29T00:30:00+01:00, or now; "
            f"got {text!r}"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
