"""What a worker process is told: one JSON value, so nothing but data crosses over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["ModuleSource", "WorkerSpec"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleSource:
    """A module by name, and the file to load it from where the name alone does not find it."""

    name: str
    file: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """Everything a worker process needs to serve one app.

    ``app`` is ``(module, attribute)``, or ``None`` for an app that no module holds: the worker then builds
    one named ``main``. ``settings`` are the app's own changes, ``world`` the harness's; both JSON.
    ``modules`` hold tasks and are imported in order. ``databases`` are the names that Django's test databases
    have, by alias, ``None`` where it is to have none; ``django`` are its settings where code has made them;
    ``mail`` is set where Django's test environment keeps mail from being sent. ``exchanges`` are the types of
    the app's exchanges, by name. ``agent`` is the descriptor of a socket that the process has inherited.
    ``workflows`` has the worker execute and sweep workflow runs. ``takes_safely`` has it take messages as a
    worker of the task service does, for an app that no module holds: the others say so themselves.

    The rest is for apps that a test makes (see :mod:`pytest_taskservice.compat`), in the words of
    :mod:`pytest_taskservice.drivers.portable`: what such an app and its worker are built with (no ``queues``
    means the app's own), class-based tasks, tasks that no module holds, and which Redis servers stand for
    which others. ``echo`` is the descriptor of a second socket: see :mod:`pytest_taskservice.drivers.echo`.

    ``ledger`` is the directory of the world's :class:`~pytest_taskservice.drivers.ledger.Ledger`; empty if
    nobody reads one. ``story`` says that a scenario is played: what the process sends is told, and faults may
    lie in wait. With ``beat``, the entries of a schedule by name, the process is a beat and no worker.
    """

    app: tuple[ModuleSource, str] | None
    main: str
    settings: Mapping[str, Any]
    world: Mapping[str, Any]
    modules: tuple[ModuleSource, ...]
    queues: tuple[str, ...]
    pool: str
    concurrency: int
    hostname: str
    agent: int
    cwd: str
    sys_path: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    databases: Mapping[str, str | None] = field(default_factory=dict)
    django: Mapping[str, Any] = field(default_factory=dict)
    mail: bool = False
    exchanges: Mapping[str, str] = field(default_factory=dict)
    app_options: Mapping[str, Any] = field(default_factory=dict)
    worker_options: Mapping[str, Any] = field(default_factory=dict)
    workflows: bool = False
    takes_safely: bool = False
    loglevel: str = "INFO"
    classes: tuple[str, ...] = ()
    carried: tuple[Mapping[str, Any], ...] = ()
    redirects: Mapping[str, str] = field(default_factory=dict)
    echo: int | None = None
    ledger: str = ""
    story: bool = False
    beat: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the spec as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> WorkerSpec:
        """Rebuild a spec from :meth:`to_json`."""
        data = json.loads(line)
        app = data.pop("app")
        modules = data.pop("modules")
        return cls(
            app=(ModuleSource(**app[0]), app[1]) if app else None,
            modules=tuple(ModuleSource(**module) for module in modules),
            queues=tuple(data.pop("queues")),
            sys_path=tuple(data.pop("sys_path")),
            classes=tuple(data.pop("classes")),
            carried=tuple(data.pop("carried")),
            **data,
        )
