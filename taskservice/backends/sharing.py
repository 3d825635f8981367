"""State in memory and several processes do not go together: refused at the start, with a reason.

What one process keeps in its memory no other one sees: its runs, their results, a broker that is
``memory://``. Only what is certain counts: what the operator has said, in a variable, on the command
line of a server, or in the configuration that a server has handed to this child of its.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["refuse_memory", "refuse_several", "several_processes"]

VARIABLES: Final = ("WEB_CONCURRENCY", "UVICORN_WORKERS")
# Of each server, what its command line calls the number of its processes.
SERVERS: Final = {
    "fastapi": ("--workers",),
    "granian": ("--workers",),
    "gunicorn": ("--workers", "-w"),
    "hypercorn": ("--workers", "-w"),
    "uvicorn": ("--workers",),
}
_ALLOW: Final = "or set TASKSERVICE_ALLOW_IN_MEMORY=true if each process may have runs of its own"


def refuse_several(settings: Settings, asked: str) -> None:
    """Raise `ConfigurationError` if this is one of several processes; ``asked`` says why runs stay in it."""
    if settings.allow_in_memory:
        return

    found = several_processes(settings.processes)
    if found is not None:
        raise ConfigurationError(
            f"tasks would run in this process ({asked}), and it is one of several: {found}; "
            f"no other one would know its runs. Set TASKSERVICE_BACKEND=celery and start a worker, "
            f"set TASKSERVICE_PROCESSES=1 if it is the only one, {_ALLOW}"
        )


def refuse_memory(app: Celery, settings: Settings | None, *, results: bool = True) -> None:
    """Raise `ConfigurationError` if the broker of ``app`` is in memory, or with ``results`` its results."""
    if app.conf.task_always_eager or (settings is not None and settings.allow_in_memory):
        return

    with app.connection_for_write() as connection:
        transport = str(connection.transport_cls)
    if transport == "memory" or "transport.memory" in transport:
        raise ConfigurationError(
            "the broker is memory://, which no other process can reach: set broker_url "
            f"(TASKSERVICE_BROKER_URL) to a Redis or RabbitMQ, {_ALLOW}"
        )

    stored = str(app.conf.result_backend or "")
    if stored == "cache":
        stored = f"cache+{app.conf.cache_backend}"
    if results and stored.startswith("cache+memory"):
        raise ConfigurationError(
            f"the result backend is {stored}, which no other process can read: set result_backend "
            f"(TASKSERVICE_RESULT_BACKEND) to a Redis, {_ALLOW}"
        )


def several_processes(
    said: int | None,
    *,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> str | None:
    """Return what shows that this is one of several processes; ``said`` settles it if it is given.

    By default it looks at this process's own environment and command line.
    """
    if said is not None:
        return f"TASKSERVICE_PROCESSES is {said}" if said > 1 else None

    variables = os.environ if environment is None else environment
    for name in VARIABLES:
        if _number(variables.get(name)) > 1:
            return f"{name} is {variables[name]}"

    arguments = _split(variables.get("GUNICORN_CMD_ARGS", ""))
    if (number := _option(arguments, SERVERS["gunicorn"])) > 1:
        return f"GUNICORN_CMD_ARGS asks for {number} workers"

    argv = sys.argv if command is None else command
    server = _server(argv)
    if server and (number := _option(argv[1:], SERVERS[server])) > 1:
        return f"{server} was started with {number} workers"
    return _configured_child()


def _configured_child() -> str | None:
    # uvicorn and hypercorn hand their configuration to each child, whoever called them.
    given = getattr(multiprocessing.current_process(), "_kwargs", None) or {}
    config = given.get("config")
    server = type(config).__module__.partition(".")[0]
    number = getattr(config, "workers", None)
    if server in SERVERS and isinstance(number, int) and number > 1:
        return f"{server} runs {number} workers"

    return None


def _server(argv: Sequence[str]) -> str | None:
    path = PurePath(argv[0]) if argv else PurePath()
    name = path.parent.name if path.name == "__main__.py" else path.stem  # `python -m uvicorn`
    return name if name in SERVERS else None


def _option(arguments: Sequence[str], names: Sequence[str]) -> int:
    """Return the number that the last of these options has; 0 without one."""
    found = 0
    for place, argument in enumerate(arguments):
        for name in names:
            if argument == name:
                found = _number(arguments[place + 1] if place + 1 < len(arguments) else "")
            elif argument.startswith(name):
                found = _number(argument.removeprefix(name).removeprefix("=")) or found
    return found


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # the server itself will say so
        return []


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
