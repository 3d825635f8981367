"""The stack under load: reached where it is there, started where it is missing, and watched."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taskservice.backends.overview import read_overview
from taskservice.backends.probing import ping_broker
from taskservice.backends.storage import open_storage
from taskservice.errors import ConfigurationError
from taskservice.heartbeats import read_with
from taskservice.load.apps import open_app
from taskservice.load.errors import StackError
from taskservice.load.servers import start_api, start_redis, start_worker
from taskservice.load.tasks import NOOP, QUESTION
from taskservice.settings import Settings, load_settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from celery import Celery

    from taskservice.load.guard import Children

__all__ = ["Stack", "StackRequest", "raise_stack"]

ASK_SECONDS: Final = 2.0
READY_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class StackRequest:
    """What is asked for.

    ``redis_url`` is a server that runs; empty is one of our own, unless an ``app`` has its broker, which
    ``own_redis`` overrules. ``tasks`` are the names that a running worker must know.
    """

    backend: str = "celery"
    app: str | None = None
    redis_url: str = ""
    own_redis: bool = False
    url: str = ""
    wants_api: bool = False
    wants_worker: bool = True
    events: bool = False
    pool: str = "prefork"
    concurrency: int = 2
    imports: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Stack:
    """What there is: in words, as variables of the environment, and the processes that must go on living."""

    backend: str
    events: bool = False
    redirect: str = ""
    api_url: str = ""
    told: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    living: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    def dead(self) -> tuple[str, subprocess.Popen[bytes]] | None:
        """Return one that should live and does not."""
        return next(((what, each) for what, each in self.living if each.poll() is not None), None)


def raise_stack(request: StackRequest, children: Children) -> Stack:
    """Find or start all that is asked for; `StackError` if something cannot be had."""
    stack = Stack(backend=request.backend)
    if request.backend == "anyio":
        stack.told.append("in process: no broker, no worker")
        stack.environment["TASKSERVICE_BACKEND"] = "anyio"
        settings = load_settings(backend="anyio")
    else:
        settings = _find_broker(request, stack, children)
        _find_workers(request, stack, settings, children)
    if request.wants_api and request.url:
        stack.api_url = request.url
        stack.told.append(f"API at {request.url}")
    elif request.wants_api:
        _require_api()
        stack.api_url, process = start_api(children, _served(request, stack), _environment(request, stack))
        stack.living.append(("the API", process))
        stack.told.append("API started")
    return stack


def _find_broker(request: StackRequest, stack: Stack, children: Children) -> Settings:
    url = request.redis_url
    found = load_settings()
    given = url or found.model_fields_set & {"redis_url", "broker_url"}
    if request.own_redis or not (given or request.app):
        url, program, process = start_redis(children)
        stack.living.append((program, process))
        stack.told.append(f"{program} started")
        # An app that is somebody's keeps its own settings: in our processes it is turned to ours.
        stack.redirect = url if request.app else ""
    if url:
        stack.environment.update(
            TASKSERVICE_REDIS_URL=url, TASKSERVICE_BROKER_URL="", TASKSERVICE_RESULT_BACKEND=""
        )
        return load_settings(backend=request.backend, redis_url=url, broker_url="", result_backend="")
    return load_settings(backend=request.backend)


def _find_workers(request: StackRequest, stack: Stack, settings: Settings, children: Children) -> None:
    app = open_app(request.app, settings, redirect=stack.redirect)
    broker = ping_broker(app, ASK_SECONDS)
    if not broker.healthy:
        raise StackError("the broker cannot be reached", broker.detail)
    if not stack.living:
        stack.told.append(broker.detail)
    if not request.wants_worker:
        stack.events = request.events
        return

    overview = read_overview(app, settings, seconds=ASK_SECONDS)
    names = [*(beat.worker for beat in overview.workers), *overview.others]
    if names:
        _require_known(app, request.tasks)
        stack.told.append(f"{len(names)} worker{'s' if len(names) > 1 else ''} found")
        stack.events = request.events
        return

    stack.events = request.events
    ready = partial(_works, app, settings)
    process = start_worker(children, _served(request, stack), _environment(request, stack), ready)
    stack.living.append(("the worker", process))
    stack.told.append(f"worker started ({request.pool} x{request.concurrency})")


def _works(app: Celery, settings: Settings) -> bool:
    try:
        with closing(open_storage(app, "heartbeats")) as storage:
            return bool(read_with(storage.client, storage.key()))
    except ConfigurationError:  # no Redis anywhere: then it is asked by the broker
        return read_overview(app, settings, seconds=READY_SECONDS).healthy


def _require_known(app: Celery, tasks: Sequence[str]) -> None:
    """Refuse to load workers with what none of them knows: it would only be a run of errors."""
    inspect: Any = app.control.inspect(timeout=ASK_SECONDS)
    answers: dict[str, list[str]] = inspect.registered() or {}
    known = {line.partition(" ")[0] for lines in answers.values() for line in lines}
    missing = [name for name in tasks if name not in known and ":" not in name]
    if not answers or not missing:
        return

    ours = {NOOP, QUESTION}.issuperset(missing)
    advice = "start it with TASKSERVICE_IMPORTS=taskservice.load.tasks, or name a task of yours with --task"
    raise ConfigurationError(
        f"no worker knows {missing[0]!r}; {advice if ours else 'see `celery inspect registered`'}"
    )


def _served(request: StackRequest, stack: Stack) -> dict[str, Any]:
    return {
        "app": request.app,
        "redirect": stack.redirect,
        "queues": list(request.queues),
        "events": stack.events,
        "pool": request.pool,
        "concurrency": request.concurrency,
    }


def _environment(request: StackRequest, stack: Stack) -> dict[str, str]:
    imports = dict.fromkeys((*load_settings().imports, *request.imports, "taskservice.load.tasks"))
    return {
        **stack.environment,
        "TASKSERVICE_BACKEND": request.backend,
        "TASKSERVICE_IMPORTS": ",".join(imports),
    }


def _require_api() -> None:
    from importlib.util import find_spec

    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise StackError(
            "the API cannot be started", "install 'taskservice[api]', or give the URL of one with --url"
        )
